"""`mcx completion`: the script that teaches a shell to complete `mcx`. It edits no file of the user's."""

from __future__ import annotations

import sys

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.completion import CompletionSettings

app = typer.Typer()

SCRIPTS = {
    "bash": """# bash completion for mcx. In ~/.bashrc: source <(mcx completion bash)
_mcx_complete() {
    local IFS=$'\\n'
    local line="${COMP_WORDS[*]}" place="$COMP_CWORD"
    COMPREPLY=($(_MCX_COMPLETE=complete_bash COMP_WORDS="$line" COMP_CWORD="$place" "${COMP_WORDS[0]}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}
complete -o default -F _mcx_complete mcx
""",
    "zsh": """#compdef mcx
# zsh completion for mcx. In ~/.zshrc, after compinit: source <(mcx completion zsh)
_mcx() {
    local -a found
    local line answer
    answer=$(_MCX_COMPLETE=complete_zsh COMP_WORDS="${(F)words}" COMP_CWORD=$((CURRENT - 1)) mcx 2>/dev/null)
    for line in "${(@f)answer}"; do
        [[ -n "$line" ]] && found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if (( ${#found} )); then
        _describe 'mcx' found
    else
        _files
    fi
}
compdef _mcx mcx
""",
    "fish": """# fish completion for mcx. In ~/.config/fish/config.fish: mcx completion fish | source
function __mcx_complete
    set -l before (commandline -opc)
    set -lx _MCX_COMPLETE complete_fish
    set -lx COMP_CWORD (count $before)
    set -lx COMP_WORDS (string join \\n -- $before (commandline -ct))
    mcx 2>/dev/null
end
complete -c mcx -a '(__mcx_complete)'
""",
}


@app.command("completion")
@takes(CompletionSettings, "completion")
def completion(settings: CompletionSettings, report: Report) -> None:
    """Print the completion script of a shell: bash, zsh or fish."""
    if settings.shell is None:
        raise SettingsError("which shell?", "mcx completion bash, zsh or fish")
    del report  # the script itself is the output
    sys.stdout.write(SCRIPTS[settings.shell])
    sys.stdout.flush()
