"""A line of text as a C string literal: for what the build puts into the program."""


def c_string(line):
    out = []
    for byte in line.encode():
        if byte in b'"\\?':
            out.append("\\" + chr(byte))
        elif 32 <= byte < 127:
            out.append(chr(byte))
        else:
            out.append(f"\\{byte:03o}")
    return '"' + "".join(out) + '"'
