"""How each shell completes a kind of value: files by suffix, models, profiles.

A kind is a row: the suffixes of its files (folders are always offered, to go into), and what
else. Each shell has one function per kind, written here once per shell. Everything is done by the
shell itself: pressing TAB starts no Python. Knows nothing of commands and options.
"""

from __future__ import annotations

import re
from collections import namedtuple
from string import Template
from typing import Any

Kind = namedtuple("Kind", "suffixes more", defaults=((),))
Kind.__doc__ = """Suffixes of the files ("" is any file, None is no file), and more words."""

KINDS: dict[str, Kind] = {
    "file": Kind(("",)),
    "folder": Kind(()),
    "model": Kind(("bitnet", "safetensors"), ("model_ids",)),
    "recipe": Kind(("yaml", "yml", "json")),
    "settings": Kind(("toml", "yaml", "yml", "json")),
    "plugin": Kind(("py",)),
    "page": Kind(("json",)),
    "profile": Kind(None, ("profiles",)),
}

# The models of the local Hugging Face cache, as --model takes them; this user's profiles.
BASH = r"""
_bitnet_model_ids() {
  local folder
  for folder in "${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}"/models--*; do
    [ -d "$folder" ] || continue
    folder="${folder##*/models--}"
    printf '%s\n' "${folder//--//}"
  done
}
_bitnet_profiles() {
  local file
  echo none
  for file in "${BITNET_CONFIG_DIR:-@@config}"/profiles/*.toml; do
    [ -f "$file" ] || continue
    file="${file##*/}"
    printf '%s\n' "${file%.toml}"
  done
}
# $1: the word; then suffixes. A word that holds escapes is compared without them.
_bitnet_files_of() {
  local word="${1//\\/}" suffix
  shift
  for suffix in "$@"; do
    compgen -f -X "!*$suffix" -- "$word"
  done
  compgen -d -- "$word"
}
# $1: the word; then candidates.
_bitnet_words_of() {
  local word="${1//\\/}" candidate
  shift
  for candidate in "$@"; do
    [[ "$candidate" == "$word"* ]] && printf '%s\n' "$candidate"
  done
}
"""
# bash hands `--emit=js` over as three words; the script by shtab knows them as two.
BASH_END = r"""
_bitnet_complete() {
  local -a words=()
  local at current=$COMP_CWORD
  for at in "${!COMP_WORDS[@]}"; do
    if (( at > 0 )) && [[ "${COMP_WORDS[at]}" == "=" && "${COMP_WORDS[at-1]}" == --* ]]; then
      if (( at == COMP_CWORD )); then words+=(""); else (( at < COMP_CWORD && current-- )); fi
    else
      words+=("${COMP_WORDS[at]}")
    fi
  done
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$current
  _shtab_bitnet
}
complete -o bashdefault -F _bitnet_complete bitnet
"""
BASH_KIND = Template(
    """
_bitnet_complete_file_$kind() {
  $lines
}
"""
)

ZSH = r"""
_bitnet_model_ids() {
  local -a found
  found=("${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}"/models--*(N/:t))
  found=(${found#models--})
  found=(${found//--//})
  compadd -X 'models of the Hugging Face cache' -a found
}
_bitnet_profiles() {
  local -a found
  found=(none "${BITNET_CONFIG_DIR:-@@config}"/profiles/*.toml(N:t:r))
  compadd -X 'profiles' -a found
}
"""
ZSH_KIND = Template(
    """
_bitnet_complete_$kind() {
  local found=1
  $lines
  return found
}
"""
)

FISH = r"""
function __bitnet_model_ids
  set -l hub "$HF_HUB_CACHE"
  test -n "$hub"; or set hub "$HF_HOME/hub"
  test "$hub" != /hub; or set hub "$HOME/.cache/huggingface/hub"
  for folder in $hub/models--*/
    string replace -a -- -- / (string replace models-- '' (basename $folder))
  end
end
function __bitnet_profiles
  set -l config "$BITNET_CONFIG_DIR"
  test -n "$config"; or set config "@@config"
  echo none
  for file in $config/profiles/*.toml
    basename $file .toml
  end
end
function __bitnet_files_of
  for candidate in (__fish_complete_path (commandline -ct))
    set -l path (string split -m1 \t -- $candidate)[1]
    for suffix in $argv /
      if string match -q -- "*$suffix" $path
        echo $candidate
        break
      end
    end
  end
end
"""
FISH_KIND = Template(
    """
function __bitnet_complete_$kind
  $lines
end
"""
)

POWERSHELL = r"""
function _bitnet_model_ids {
  $hub = $env:HF_HUB_CACHE
  if (-not $hub -and $env:HF_HOME) { $hub = Join-Path $env:HF_HOME 'hub' }
  if (-not $hub) { $hub = Join-Path $HOME '.cache/huggingface/hub' }
  Get-ChildItem -Path (Join-Path $hub 'models--*') -Directory -ErrorAction SilentlyContinue |
    ForEach-Object { $_.Name.Substring(8).Replace('--', '/') }
}
function _bitnet_profiles {
  $config = $env:BITNET_CONFIG_DIR
  if (-not $config) { $config = '@@config' }
  'none'
  Get-ChildItem -Path (Join-Path $config 'profiles/*.toml') -File -ErrorAction SilentlyContinue |
    ForEach-Object { $_.BaseName }
}
function _bitnet_files_of {
  param([string]$Word, [string[]]$Suffixes)
  $folder = ''
  if ($Word -match '^(.*[\\/])') { $folder = $Matches[1] }
  Get-ChildItem -Path "$Word*" -ErrorAction SilentlyContinue | ForEach-Object {
    if ($_.PSIsContainer) { $folder + $_.Name + [System.IO.Path]::DirectorySeparatorChar }
    else {
      foreach ($suffix in $Suffixes) {
        if ($_.Name.EndsWith($suffix)) { $folder + $_.Name; break }
      }
    }
  }
}
"""
POWERSHELL_KIND = Template(
    """
function _bitnet_complete_$kind {
  param([string]$$Word)
  $lines
}
"""
)


def preambles(config_dir: str) -> dict[str, str]:
    """Returns shell -> the functions that `calls` names; profiles lie in `config_dir`."""
    # Within double quotes; PowerShell's text is within single ones.
    quoted = re.sub(r"([\"$`\\])", r"\\\1", config_dir)
    single = config_dir.replace("'", "''")
    return {
        "bash": BASH.replace("@@config", quoted) + "".join(map(_bash, KINDS)),
        "zsh": ZSH.replace("@@config", quoted) + "".join(map(_zsh, KINDS)),
        "fish": FISH.replace("@@config", quoted) + "".join(map(_fish, KINDS)),
        "powershell": POWERSHELL.replace("@@config", single) + "".join(map(_powershell, KINDS)),
        "tcsh": "",
    }


def calls(kind: str) -> dict[str, Any]:
    """Returns how each shell asks for a kind, as shtab's `complete` attribute has it."""
    row = KINDS[kind]
    # tcsh has no functions: its patterns know files and folders, and that is what it gets.
    suffixes = [suffix for suffix in row.suffixes or () if suffix]
    tcsh = f"f:*.{{{','.join(suffixes)}}}" if suffixes else "f" if row.suffixes else "d"
    if row.suffixes is None:
        tcsh = ""
    return {
        "bash": f"_bitnet_complete_file_{kind}",
        "zsh": f"_bitnet_complete_{kind}",
        "fish": f"(__bitnet_complete_{kind})",
        "powershell": f"_bitnet_complete_{kind}",
        "tcsh": tcsh,
    }


def _dotted(kind: str) -> list[str]:
    return [f".{suffix}" if suffix else "" for suffix in KINDS[kind].suffixes or ()]


def _bash(kind: str) -> str:
    lines = []
    if KINDS[kind].suffixes is not None:
        lines.append(" ".join(['_bitnet_files_of "$1"', *(f"'{s}'" for s in _dotted(kind))]))
    lines += [f'_bitnet_words_of "$1" $(_bitnet_{more})' for more in KINDS[kind].more]
    return BASH_KIND.substitute(kind=kind, lines="\n  ".join(lines))


def _zsh(kind: str) -> str:
    lines = []
    suffixes = _dotted(kind)
    if suffixes == [""]:
        lines.append("_files && found=0")
    elif KINDS[kind].suffixes == ():
        lines.append("_files -/ && found=0")
    elif suffixes:
        lines.append(f"_files -g '*({'|'.join(suffixes)})' && found=0")
    lines += [f"_bitnet_{more} && found=0" for more in KINDS[kind].more]
    return ZSH_KIND.substitute(kind=kind, lines="\n  ".join(lines))


def _fish(kind: str) -> str:
    lines = []
    if KINDS[kind].suffixes is not None:
        lines.append(" ".join(["__bitnet_files_of", *(f"'{s}'" for s in _dotted(kind))]))
    lines += [f"__bitnet_{more}" for more in KINDS[kind].more]
    return FISH_KIND.substitute(kind=kind, lines="\n  ".join(lines))


def _powershell(kind: str) -> str:
    lines = []
    if KINDS[kind].suffixes is not None:
        suffixes = ", ".join(f"'{s}'" for s in _dotted(kind))
        lines.append(f"_bitnet_files_of $Word @({suffixes})")
    lines += [f'_bitnet_{more} | Where-Object {{ $_ -like "$Word*" }}' for more in KINDS[kind].more]
    return POWERSHELL_KIND.substitute(kind=kind, lines="\n  ".join(lines))
