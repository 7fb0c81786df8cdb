"""Completion scripts for bash, zsh and fish from the command tree.

The scripts hold every command and option, so that a TAB on those starts no process. Only names that are alive (nodes,
partitions, QOS, jobs, runs) are asked for, from `sovctl complete`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sovctl.cli.tree import KINDS, Command, Option, sbatch_options

_MADE = "Made from the command tree by `make generated`; `sovctl completion {name}` prints the same."
_SCRIPTS = (("submit",), ("exec",))
"""Commands that read no options behind the first word that is none."""
_LIVE = frozenset({"node", "partition", "qos", "job", "run"})
_BASH_LOGIC = r"""
_sovctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path=sovctl open=yes seen=0 skip= word at kind
    local -a words=()
    COMPREPLY=()
    # bash splits `--option=value` into three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == = ]]; then
            [[ -n $skip && $at -lt $((COMP_CWORD - 1)) ]] && skip=value
        elif [[ -n $skip ]]; then
            skip=
        elif [[ -z $open ]]; then
            ((seen++))
        elif [[ $word == -- ]]; then
            open=
        elif [[ $word == -* ]]; then
            [[ -n ${_sovctl_values["$path $word"]-} && ${COMP_WORDS[at+1]} != = ]] && skip=value
            [[ -n ${_sovctl_values["$path $word"]-} && ${COMP_WORDS[at+1]} == = ]] && skip=equals
        elif [[ " ${_sovctl_commands["$path"]} " == *" $word "* ]]; then
            path+=" $word"
        else
            ((seen++))
            # sbatch and exec stop reading options at the script or command.
            [[ $path == "sovctl submit" || $path == "sovctl exec" ]] && open=
        fi
    done
    word=${COMP_WORDS[COMP_CWORD-1]}${COMP_WORDS[COMP_CWORD]}
    if [[ -n $open && $prev == -* && -n ${_sovctl_values["$path $prev"]-} ]] \
        && [[ $word == =* || $word == *= || -z ${_sovctl_optional["$path $prev"]-} ]]
    then
        _sovctl_value "${_sovctl_values["$path $prev"]}"
        return
    fi
    if [[ -n $open && $cur == -* ]]; then
        COMPREPLY=($(compgen -W "${_sovctl_options["$path"]}" -- "$cur"))
        return
    fi
    if [[ -n ${_sovctl_commands["$path"]} ]]; then
        ((seen)) || COMPREPLY=($(compgen -W "${_sovctl_commands["$path"]}" -- "$cur"))
        return
    fi
    words=(${_sovctl_arguments["$path"]})
    kind=${words[seen]-}
    if [[ -z $kind && ${#words[@]} -gt 0 && ${words[-1]} == *+ ]]; then
        kind=${words[-1]}
    fi
    kind=${kind%+}
    _sovctl_value "${kind//|/ }"
}

_sovctl_value() {
    local IFS=$'\n'
    case $1 in
        '' | -) ;;
        file) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
        directory) compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")) ;;
        program) compopt -o filenames; COMPREPLY=($(compgen -c -f -- "$cur")) ;;
        @LIVE@)
            COMPREPLY=($(command "${COMP_WORDS[0]}" complete "$1" "$cur" 2>/dev/null))
            # More may follow a comma.
            [[ $1 == node ]] && compopt -o nospace
            ;;
        *) IFS=' '$'\n'; COMPREPLY=($(compgen -W "$1" -- "$cur")) ;;
    esac
}

complete -F _sovctl sovctl
"""
_ZSH_LOGIC = r"""
_sovctl() {
    local pth=sovctl word kind open=yes skip= shown
    integer seen=0 at
    local -a positions
    for ((at = 2; at < CURRENT; at++)); do
        word=$words[at]
        if [[ -n $skip ]]; then
            skip=
        elif [[ -z $open ]]; then
            ((seen++))
        elif [[ $word == -- ]]; then
            open=
        elif [[ $word == -*=* ]]; then
            :
        elif [[ $word == -* ]]; then
            [[ -n ${_sovctl_values[$pth $word]+set} && -z ${_sovctl_optional[$pth $word]} ]] && skip=$word
        elif [[ " ${_sovctl_commands[$pth]} " == *" $word "* ]]; then
            pth+=" $word"
        else
            ((seen++))
            # sbatch and exec stop reading options at the script or command.
            [[ $pth == "sovctl submit" || $pth == "sovctl exec" ]] && open=
        fi
    done
    word=$words[CURRENT]
    if [[ -n $skip ]]; then
        _sovctl_value "${_sovctl_values[$pth $skip]}"
        return
    fi
    if [[ -n $open && $word == --*=* ]]; then
        compset -P '*='
        _sovctl_value "${_sovctl_values[$pth ${word%%=*}]}"
        return
    fi
    if [[ -n $open && $word == -* ]]; then
        positions=("${(@f)_sovctl_options[$pth]}")
        _describe -o option positions
        return
    fi
    if [[ -n ${_sovctl_commands[$pth]} ]]; then
        ((seen)) && return 1
        positions=()
        for shown in ${=_sovctl_commands[$pth]}; do
            positions+=("$shown:${_sovctl_summaries[$pth $shown]}")
        done
        _describe command positions
        return
    fi
    positions=(${=_sovctl_arguments[$pth]})
    kind=${positions[seen+1]-}
    [[ -z $kind && ${positions[-1]-} == *+ ]] && kind=$positions[-1]
    _sovctl_value "${${kind%+}//\|/ }"
}

_sovctl_value() {
    local -a found
    case $1 in
        ''|-) _message value ;;
        file) _files ;;
        directory) _files -/ ;;
        program) _command_names -e; _files ;;
        @LIVE@)
            found=("${(@f)$(command $words[1] complete $1 -- "$PREFIX" 2>/dev/null)}")
            found=(${found:#})
            # More may follow a comma.
            if [[ $1 == node ]]; then
                compadd -Q -S '' -a found
            else
                compadd -Q -a found
            fi
            ;;
        *) found=(${=1}); compadd -a found ;;
    esac
}

if [[ $funcstack[1] == _sovctl ]]; then
    _sovctl "$@"
else
    compdef _sovctl sovctl
fi
"""
_FISH_LOGIC = r"""
function __sovctl_path --description 'The command so far'
    set -l words (commandline -opc)
    set -l path sovctl
    for word in $words[2..-1]
        switch $word
            case '--'
                break
            case '-*'
                continue
        end
        if contains -- "$path $word" $__sovctl_paths
            set path "$path $word"
        else
            # Below a group there are only its commands.
            contains -- $path $__sovctl_groups; and set path unknown
            break
        end
    end
    echo $path
end

function __sovctl_open --description 'Whether options are still read: not behind a script or command'
    set -l words (commandline -opc)
    set -l skip
    for word in $words[3..-1]
        if test -n "$skip"
            set skip
        else if test "$word" = --
            return 1
        else if string match -q -- '-*' $word
            contains -- $word $__sovctl_valued; and set skip yes
        else
            return 1
        end
    end
    return 0
end

function __sovctl_at --description 'Whether this is the command'
    set -l path (__sovctl_path)
    test "$path" = "$argv"
end

function __sovctl_live --description 'Names that are alive'
    set -l words (commandline -opc)
    command $words[1] complete $argv[1] -- (string replace -r '^--?[a-zA-Z-]+=' '' -- (commandline -ct)) 2>/dev/null
end
"""


def completion_script(shell: str, tree: Command) -> str:
    """The script for `bash`, `zsh` or `fish`. Raises KeyError for another shell."""
    made: dict[str, Callable[[list[Command]], list[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    lines = made[shell]([_with_sbatch(command) for command in tree.every()])
    return "\n".join(lines).rstrip() + "\n"


def _with_sbatch(command: Command) -> Command:
    """`sovctl submit` takes every option of sbatch."""
    if command.path != ("submit",):
        return command
    from dataclasses import replace

    own = {name for option in command.options for name in option.names}
    return replace(
        command, options=(*command.options, *(item for item in sbatch_options() if own.isdisjoint(item.names)))
    )


# bash


def _bash(commands: list[Command]) -> list[str]:
    lines = [
        "# bash completion for sovctl                             -*- shell-script -*-",
        f"# {_MADE.format(name='bash')}",
        "# shellcheck shell=bash disable=SC2034,SC2207",
    ]
    lines += _table("_sovctl_commands", ((_at(item), _names(item)) for item in commands), "declare -gA")
    options = ((_at(item), " ".join(name for one in item.options for name in one.names)) for item in commands)
    lines += _table("_sovctl_options", options, "declare -gA")
    lines += _tables_of_values(commands, "declare -gA")
    return [*lines, _BASH_LOGIC.replace("@LIVE@", " | ".join(sorted(_LIVE))).rstrip()]


# zsh


def _zsh(commands: list[Command]) -> list[str]:
    lines = ["#compdef sovctl", f"# {_MADE.format(name='zsh')}"]
    lines += _table("_sovctl_commands", ((_at(item), _names(item)) for item in commands), "typeset -gA")
    lines += _table("_sovctl_summaries", ((_at(item), item.summary) for item in commands), "typeset -gA")
    described = (
        (_at(item), "\n".join(f"{name}:{_short(one)}" for one in item.options for name in one.names))
        for item in commands
    )
    lines += _table("_sovctl_options", described, "typeset -gA")
    lines += _tables_of_values(commands, "typeset -gA")
    return [*lines, _ZSH_LOGIC.replace("@LIVE@", "|".join(sorted(_LIVE))).rstrip()]


def _tables_of_values(commands: list[Command], declare: str) -> list[str]:
    taking = [(item, option) for item in commands for option in item.options if option.value]
    values = ((f"{_at(item)} {name}", option.completes or "-") for item, option in taking for name in option.names)
    optional = ((f"{_at(item)} {name}", "yes") for item, option in taking if option.optional for name in option.names)
    positions = ((_at(item), _positions(item)) for item in commands)
    return [
        *_table("_sovctl_values", values, declare),
        *_table("_sovctl_optional", optional, declare),
        *_table("_sovctl_arguments", positions, declare),
    ]


# fish


def _fish(commands: list[Command]) -> list[str]:
    valued = dict.fromkeys(
        name
        for item in commands
        if item.path in _SCRIPTS
        for option in item.options
        if option.value and not option.optional
        for name in option.names
    )
    lines = [
        f"# {_MADE.format(name='fish')}",
        "set -g __sovctl_paths " + " ".join(_quoted(_at(item)) for item in commands if item.path),
        "set -g __sovctl_groups " + " ".join(_quoted(_at(item)) for item in commands if item.commands),
        "set -g __sovctl_valued " + " ".join(valued),
        _FISH_LOGIC.strip("\n"),
        "",
        "complete -c sovctl -f",
    ]
    for item in commands:
        here = f"complete -c sovctl -n {_quoted(f'__sovctl_at {_at(item)}')}"
        for below in item.commands:
            lines.append(f"{here} -a {below.path[-1]} -d {_quoted(below.summary)}")
        kinds = dict.fromkeys(argument.completes for argument in item.arguments if argument.completes)
        lines += [f"{here} {_fish_value(kind)}" for kind in kinds]
        if item.path in _SCRIPTS:
            here = f"complete -c sovctl -n {_quoted(f'__sovctl_at {_at(item)}; and __sovctl_open')}"
        lines += [f"{here} {_fish_option(option)}" for option in item.options]
    return lines


def _fish_option(option: Option) -> str:
    words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.value and not option.optional:
        words.append("-r")
    if option.value:
        words.append(_fish_value(option.completes))
    return " ".join([*words, f"-d {_quoted(_short(option))}"])


def _fish_value(kind: str) -> str:
    if kind in _LIVE:
        return f"-f -a {_quoted(f'(__sovctl_live {kind})')}"
    listed = {"file": "-F", "directory": "-f -a '(__fish_complete_directories)'", "program": "-F"}
    if kind in KINDS:
        return listed[kind]
    return f"-f -a {_quoted(kind)}" if kind else "-f"


# Words


def _table(name: str, rows: Iterable[tuple[str, str]], declare: str) -> list[str]:
    """An associative array; bash and zsh (5.5 on) both take `[key]=value`."""
    return [f"{declare} {name}=(", *(f"    [{_quoted(key)}]={_quoted(value)}" for key, value in rows if value), ")"]


def _at(command: Command) -> str:
    return " ".join(("sovctl", *command.path))


def _names(command: Command) -> str:
    return " ".join(item.path[-1] for item in command.commands)


def _positions(command: Command) -> str:
    """One word an argument: its kind, its possible words with | between, or -; + where more of it may follow."""
    words = [(item.completes.replace(" ", "|") or "-") + ("+" if item.many else "") for item in command.arguments]
    return " ".join(words) if any(word.strip("-+") for word in words) else ""


def _short(option: Option) -> str:
    first = option.help.split(". ", 1)[0].rstrip(".")
    return first if len(first) <= 72 else first[:69].rsplit(" ", 1)[0] + "..."


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
