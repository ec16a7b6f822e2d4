# fish completion for mcx. In ~/.config/fish/config.fish: mcx completion fish | source
function __mcx_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -lx _MCX_COMPLETE complete_fish
    set -lx COMP_CWORD (count $before)
    set -lx COMP_WORDS (string join \n -- $before $current | string collect)
    set -l found (mcx 2>/dev/null)
    if test "$found" = ':files'
        set -l flag (string match -r -- '^--[^=]+=' $current)
        for path in (__fish_complete_path (string replace -r -- '^--[^=]+=' '' $current))
            echo -- $flag$path
        end
    else
        string join -- \n $found
    end
end
complete -c mcx -f -a '(__mcx_complete)'
