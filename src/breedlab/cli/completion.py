"""`breedlab completion`: a script that has a shell complete commands, flags, settings and runs.

All names are in the script, so that a press of TAB starts no Python; only run directories are
looked up, by the shell, where the user is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

from breedlab.cli import COMMANDS
from breedlab.cli.parser import Parser, visible_flags
from breedlab.cli.shells import BASH, FISH, ZSH, quoted
from breedlab.commands import command
from breedlab.config.compose import named_plugins
from breedlab.config.endpoint import deploy_schema
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import error_from
from breedlab.config.schema import schema
from breedlab.config.setting import Setting, settings
from breedlab.config.yaml_folders import groups, with_search_path

_SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
_FLAGS_OF_LAUNCH = ["--cfg", "--config-dir", "--help", "--multirun"]
_RUN_SETTINGS = ("resume", "model.weights")
"""Settings whose value may be a run directory."""


@dataclass
class Completed:
    """What can follow a command.

    Attributes:
        flags: Its flags.
        verbs: The words that its first argument is one of.
        values: What may follow a flag.
        settings: Its settings and groups, as `optim.lr=`; without `=` for `help`.
        choices: The words that a setting or group may be set to, by `optim.name=`.
        runs: Whether it takes run directories.
    """

    flags: list[str] = field(default_factory=list)
    verbs: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    choices: dict[str, list[str]] = field(default_factory=dict)
    runs: bool = False


def main(argv: list[str]) -> int:
    """Print a shell's script.

    Raises:
        ConfigError: If a plugin cannot be imported.
    """
    overrides = [word for word in with_search_path(argv) if "=" in word]
    words = [word for word in argv if word not in overrides]
    args = command_parser().parse_args(words)
    if problems := load_plugins(named_plugins(overrides)):
        raise error_from(problems)
    print(script(args.shell, {name: completed(name, overrides) for name in COMMANDS}), end="")
    sys.stdout.flush()
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "completion",
        "bash|zsh|fish [plugins=[my_package]]",
        description="Print a script for shell completion of commands, flags, settings, and runs.",
        examples=(
            "bash > ~/.local/share/bash-completion/completions/breedlab",
            "zsh > ~/.zfunc/_breedlab     # a folder of your $fpath",
            "fish > ~/.config/fish/completions/breedlab.fish",
        ),
        notes="The script contains all names: generate it again after updating breedlab.",
    )
    parser.add_argument("shell", choices=tuple(_SCRIPTS), help="the shell")
    return parser


def completed(name: str, overrides: list[str]) -> Completed:
    """Return what can follow a command.

    Args:
        name: The command.
        overrides: Those with `hydra.searchpath` name more folders of configs.
    """
    words = Completed()
    if name == "launch":
        words.flags = _FLAGS_OF_LAUNCH
    else:
        _of_parser(import_module(f"breedlab.cli.{name}").command_parser(), words)
    if name in ("launch", "check", "account"):
        _of_config(list(settings(schema())), groups(overrides), words)
    if name == "deploy":
        _of_config(list(settings(deploy_schema())), groups(overrides, of_deploy=True), words)
    if name == "help":
        every = [*settings(deploy_schema()), *settings(schema())]
        words.settings = list(dict.fromkeys(setting.path for setting in every))
    return words


def _of_parser(parser: argparse.ArgumentParser, completions: Completed) -> None:
    completions.flags += visible_flags(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            completions.verbs += list(action.choices)
            for inside in action.choices.values():
                _of_parser(inside, Completed())
        elif action.choices is not None and all(isinstance(one, str) for one in action.choices):
            choices = list(map(str, action.choices))
            if action.option_strings:
                completions.values |= dict.fromkeys(action.option_strings, choices)
            else:
                completions.verbs += choices
        if not action.option_strings and "RUN" in str(action.metavar).split("|"):
            completions.runs = True


def _of_config(
    all_settings: list[Setting], choices: dict[str, list[str]], completions: Completed
) -> None:
    for group, names in choices.items():
        completions.choices[f"{group}="] = names
    for setting in all_settings:
        if setting.section is None:
            if values := list(dict.fromkeys(_values(setting))):
                completions.choices[f"{setting.path}="] = values
            completions.settings.append(f"{setting.path}=")
    completions.settings += [f"{group}=" for group in choices]


def _values(setting: Setting) -> Iterator[str]:
    """Yield the words that a setting may be, where they are closed choices."""
    if setting.registry is not None:
        yield from setting.registry.choices()
        return
    field_info = setting.owner.model_fields[setting.path.rpartition(".")[2]]
    yield from _words(field_info.annotation)


def _words(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) is not list and get_origin(annotation) is not dict:
        for part in get_args(annotation):
            yield from _words(part)


def script(shell: str, commands: dict[str, Completed]) -> str:
    """Return a shell's script.

    Args:
        shell: `bash`, `zsh` or `fish`.
        commands: What can follow each command.
    """
    make = _fish_lines if shell == "fish" else _posix_lines
    return (
        _SCRIPTS[shell]
        .replace("@CASES@", "\n".join(make(commands)))
        .replace("@COMMANDS@", " ".join(commands))
        .replace("@NAME@", command("completion", shell))
    )


def _posix_lines(commands: dict[str, Completed]) -> Iterator[str]:
    """Yield the branches of the `case` that prints what may follow a command, a word a line."""
    for name, completions in commands.items():
        yield f"    {name})"
        if completions.values:
            yield '      case "$previous" in'
            for flag, values in completions.values.items():
                yield f"        {flag}) printf '%s \\n' {quoted(values)}; return;;"
            yield "      esac"
        yield '      case "$current" in'
        yield f"        -*) printf '%s \\n' {quoted(completions.flags)}; return;;"
        for path, values in completions.choices.items():
            words = quoted(f"{path}{value}" for value in values)
            yield f"        {path}*) printf '%s \\n' {words}; return;;"
        if completions.settings:
            if any(f"{path}=" in completions.settings for path in _RUN_SETTINGS):
                for path in _RUN_SETTINGS:
                    yield f'        {path}=*) _breedlab_runs "{path}="; return;;'
            yield "        *=*) return;;"
            inside = [path for path in completions.settings if "." in path]
            space = " " if name == "help" else ""
            yield f"        *.*) printf '%s{space}\\n' {quoted(inside)};;"
            yield f"        *) printf '%s\\n' {quoted(_top(completions.settings))};;"
        yield "      esac"
        if completions.verbs:
            yield f"      [ \"$number\" -eq 2 ] && printf '%s \\n' {quoted(completions.verbs)}"
        if completions.runs:
            yield '      _breedlab_runs ""'
        yield "      ;;"


def _top(paths: list[str]) -> list[str]:
    """Return settings of the top level, and sections with their dot: `seed=`, `optim.`."""
    return sorted({f"{path.partition('.')[0]}." if "." in path else path for path in paths})


def _fish_lines(commands: dict[str, Completed]) -> Iterator[str]:
    for name, completions in commands.items():
        about = quoted([COMMANDS[name].partition(":")[0]])
        yield f"complete -c breedlab -n __fish_use_subcommand -a {name} -d {about}"
        here = f"complete -c breedlab -n '__breedlab_is {name}'"
        if completions.verbs:
            verbs = quoted([" ".join(completions.verbs)])
            yield f"complete -c breedlab -n '__breedlab_begins {name}' -a {verbs}"
        for flag in completions.flags:
            values = completions.values.get(flag)
            takes = f" -x -a {quoted([' '.join(values)])}" if values else ""
            yield f"{here} -l {flag.removeprefix('--')}{takes}"
        words = list(completions.settings)
        for path, values in completions.choices.items():
            words += [f"{path}{value}" for value in values]
        if words:
            yield f"{here} -a {quoted([' '.join(dict.fromkeys(words))])}"
        if completions.runs:
            yield f"{here} -a '(__breedlab_runs)'"
        for path in _RUN_SETTINGS:
            if f"{path}=" in completions.settings:
                yield f"{here} -a '(__breedlab_runs {path}=)'"
