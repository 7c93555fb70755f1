"""Documentation whose examples are run: the blocks of a page in Markdown."""


def read_blocks(path):
    """(chapter, section, info string, text) of each block, in order; a section's name is its chapter's where it has none."""
    found, chapter, section, info, text = [], None, None, None, []
    with open(path) as page:
        for line in page:
            if line.startswith("```") and info is None:
                info, text = line[3:].strip(), []
            elif line.startswith("```"):
                found.append((chapter, section, info, "".join(text)))
                info = None
            elif info is not None:
                text.append(line)
            elif line.startswith("## "):
                chapter = section = line[3:].strip()
            elif line.startswith("### "):
                section = line[4:].strip()
    return found
