# fish completion for mcx. In ~/.config/fish/config.fish: mcx completion fish | source
function __mcx_complete
    set -l before (commandline -opc)
    set -lx _MCX_COMPLETE complete_fish
    set -lx COMP_CWORD (count $before)
    set -lx COMP_WORDS (string join \n -- $before (commandline -ct))
    mcx 2>/dev/null
end
complete -c mcx -a '(__mcx_complete)'
