"""Manual pages and a bash completion, from tailwater help --json: manual.py BINARY FOLDER VERSION."""
import gzip
import json
import os
import subprocess
import sys


def roff(text):
    """One line of text; a dot or a quote at its beginning is none of roff's."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def synopsis(verb):
    name = f"tailwater {verb['name']}"
    return f"{name} [\\fIoptions\\fR]" + (f" {roff(verb['operand'])}" if verb["operand"] else "")


def page(verb, version):
    lines = [f".TH TAILWATER\\-{verb['name'].upper()} 1 \"\" \"tailwater {version}\"", ".SH NAME",
             f"tailwater\\-{verb['name']} \\- {roff(verb['summary'])}", ".SH SYNOPSIS", synopsis(verb), ".SH DESCRIPTION", ".nf"]
    lines += [roff(line) for line in verb["help"].rstrip("\n").split("\n")]
    lines += [".fi", ".SH OPTIONS"]
    for option in verb["options"]:
        letter = f"\\-{option['letter']}, " if option["letter"] else ""
        value = f" \\fI{roff(option['value'])}\\fR" if option["value"] else ""
        lines += [".TP", f"{letter}\\-\\-{roff(option['name'])}{value}", roff(option["help"])]
    return lines + [".SH SEE ALSO", "tailwater(1); the documents in /usr/share/doc/tailwater"]


def overview(verbs, version):
    lines = [f".TH TAILWATER 1 \"\" \"tailwater {version}\"", ".SH NAME",
             "tailwater \\- a current copy of PostgreSQL tables in a second database", ".SH SYNOPSIS",
             "tailwater [\\-c \\fIFILE\\fR] \\fIVERB\\fR [\\fIoptions\\fR]", ".SH DESCRIPTION",
             "Tails the logical decoding of one PostgreSQL database, and keeps chosen tables current in another, "
             "exactly once.  Each verb has a page of its own.", ".SH VERBS"]
    for verb in verbs:
        lines += [".TP", f"{verb['name']}", roff(verb["summary"])]
    lines += [".SH EXIT STATUS"]
    for code, text in (("0", "done"), ("1", "failed"), ("2", "usage or configuration"), ("3", "check or verify found something"),
                       ("4, 5", "the source, the mirror cannot be reached"), ("6", "the slot is lost, missing or not ours"),
                       ("7", "another instance holds the pipeline"), ("75", "try again")):
        lines += [".TP", code, text]
    return lines + [".SH FILES", ".TP", "/etc/tailwater/NAME.yaml, NAME.env", "read by the service tailwater@NAME"]


def completion(verbs):
    """Verbs, then the options of the verb that stands there; files behind -c."""
    cases = "\n".join(f"    {verb['name']}) words='{' '.join('--' + option['name'] for option in verb['options'])}' ;;"
                      for verb in verbs)
    names = " ".join(verb["name"] for verb in verbs)
    return f"""# bash completion for tailwater, made by scripts/package
_tailwater() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} verb='' word words
    if [[ $previous == -c || $previous == --config ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD - 1}}"; do
        case " {names} " in *" $word "*) verb=$word && break ;; esac
    done
    case $verb in
    '') words='{names}' ;;
{cases}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o default -F _tailwater tailwater
"""


def main():
    binary, folder, version = sys.argv[1:]
    verbs = json.loads(subprocess.run([binary, "help", "--json"], check=True, capture_output=True, text=True).stdout)
    pages = {"tailwater": overview(verbs, version)}
    pages.update({f"tailwater-{verb['name']}": page(verb, version) for verb in verbs})
    os.makedirs(f"{folder}/usr/share/man/man1", exist_ok=True)
    for name, lines in pages.items():
        with gzip.GzipFile(f"{folder}/usr/share/man/man1/{name}.1.gz", "wb", mtime=0) as file:
            file.write(("\n".join(lines) + "\n").encode())
    os.makedirs(f"{folder}/usr/share/bash-completion/completions", exist_ok=True)
    with open(f"{folder}/usr/share/bash-completion/completions/tailwater", "w") as file:
        file.write(completion(verbs))


main()
