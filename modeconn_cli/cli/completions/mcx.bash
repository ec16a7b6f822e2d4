# bash completion for mcx. In ~/.bashrc: source <(mcx completion bash)
_mcx_complete() {
    local IFS=$'\n'
    local line="${COMP_WORDS[*]}" place="$COMP_CWORD"
    COMPREPLY=($(_MCX_COMPLETE=complete_bash COMP_WORDS="$line" COMP_CWORD="$place" "${COMP_WORDS[0]}" 2>/dev/null))
    if [[ ${COMPREPLY[0]} == :files ]]; then
        COMPREPLY=()
    else
        compopt +o default 2>/dev/null
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}
complete -o default -F _mcx_complete mcx
