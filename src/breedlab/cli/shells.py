"""The shells' own parts of `breedlab completion`; `@CASES@` is where the names go."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def quoted(words: Iterable[str]) -> str:
    """Return words quoted for a shell and joined by spaces."""
    return " ".join(shlex.quote(word) for word in words)


_WORDS = r"""
_breedlab_runs() {
  # Run directories below what is typed: those with a config.yaml.
  local prefix="$1" typed="${current#"$1"}" file
  for file in "$typed"*/config.yaml "$typed"*/*/config.yaml "$typed"*/*/*/config.yaml; do
    [ -f "$file" ] && printf '%s%s \n' "$prefix" "${file%/config.yaml}"
  done
}

_breedlab_words() {
  # What may stand in place of the last word: command, current and previous word, and its number.
  local name="$1" current="$2" previous="$3" number="$4"
  if [ "$number" -le 1 ]; then
    printf '%s \n' @COMMANDS@
    return
  fi
  case "$name" in
@CASES@
  esac
}
"""

BASH = (
    """# Completion of breedlab for bash, made by `@NAME@`.
"""
    + _WORDS
    + r"""
_breedlab() {
  # Bash splits words at `=` and `:`, so the line is read instead.
  local line="${COMP_LINE:0:COMP_POINT}" words current previous number known word
  read -ra words <<<"$line"
  [[ "$line" == *[[:space:]] ]] && words+=("")
  number=$((${#words[@]} - 1))
  current="${words[number]}"
  previous="${words[number - 1]}"
  known="$current"
  case "$COMP_WORDBREAKS" in *=*) known="${current##*=}";; esac
  COMPREPLY=()
  while IFS= read -r word; do
    [[ "$word" == "$current"* ]] && COMPREPLY+=("${word:${#current}-${#known}}")
  done < <(shopt -s nullglob; _breedlab_words "${words[1]}" "$current" "$previous" "$number")
}

complete -o nospace -o default -F _breedlab breedlab
"""
)

ZSH = (
    """#compdef breedlab
# Completion of breedlab for zsh, made by `@NAME@`.
"""
    + _WORDS
    + r"""
_breedlab() {
  setopt localoptions nullglob
  local -a found
  local current="${words[CURRENT]}" previous="${words[CURRENT-1]}" number=$((CURRENT - 1))
  found=("${(@f)$(_breedlab_words "${words[2]}" "$current" "$previous" "$number")}")
  found=(${found:#})
  # What ends with a space is whole; a section or the name of a setting goes on.
  compadd -Q -S '' -- ${(M)found:#*[=.]}
  compadd -Q -- ${${found:#*[=.]}% }
  _files
}

if [ "$funcstack[1]" = "_breedlab" ]; then
  _breedlab "$@"
else
  compdef _breedlab breedlab
fi
"""
)

FISH = r"""# Completion of breedlab for fish, made by `@NAME@`.

function __breedlab_is --argument-names name
    # Whether this is the command, and not a word after another one.
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test $words[2] = $name
end

function __breedlab_begins --argument-names name
    # Whether the next word is the first after the command.
    __breedlab_is $name; and test (count (commandline -opc)) -eq 2
end

function __breedlab_runs --argument-names setting
    # Run directories below what is typed after `setting`: those with a config.yaml.
    set -l typed (commandline -ct)
    string match -q -- "$setting*" $typed; or return
    set -l folder (string sub -s (math (string length -- "$setting") + 1) -- $typed)
    for file in $folder*/config.yaml $folder*/*/config.yaml $folder*/*/*/config.yaml
        echo "$setting"(string replace -r '/config.yaml$' '' -- $file)
    end
end

@CASES@
"""
