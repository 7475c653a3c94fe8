"""Write `tests/vectors/text/`: the tokens that every implementation of the tokenizer has to find, and embeddings.

    python scripts/write_text_vectors.py [FOLDER]

Beside them go what an implementation reads: `tokenizer.json`, cut down to what these texts can reach, and, in
`web_demo/site/`, HTML's named characters (docs/preprocessing.md#text).
"""

import html.entities
import json
import random
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ftfy

from pecore.convert.text_tower import build_text_tower, encode_ids, load_text, text_config, token_ids
from pecore.convert.tokenizer_file import clip_tokenizer, tokenizer_json
from pecore.tokenizer import END, START, clean, from_json
from pecore.variants import find

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "vectors" / "text"
ENTITIES = ROOT / "web_demo" / "site" / "entities.json"
COUNT = 500
CONTEXT_LENGTH = 32
VARIANT = find("T16")
CONFIG = replace(text_config(VARIANT), layers=1, width=64, heads=2)

TEXTS = json.loads((FOLDER / "texts.json").read_text(encoding="utf-8"))  # by kind
TEMPLATES = ["{}", "a photo of a {}.", "itap of the {}", "a bad photo of the {}", "{} &amp; {}", "{}, {}; {}"]


def texts() -> list[str]:
    """The 500: those of `texts.json`, and class names and characters put together by a seeded hand.

    Its characters are as old as Unicode 3.2: whether a newer one is a letter depends on the version that a regex engine
    was built with. And no text is changed by ftfy's guess at wrongly decoded text, which other implementations don't
    take: it is about files, not about what a person types.
    """
    given = dict.fromkeys(text for kind in TEXTS.values() for text in kind)
    rng = random.Random(0)
    letters = [chr(i) for i in range(0x20, 0x30000) if _settled(chr(i))]
    pieces = [*class_names(), *(text for text in given if len(text) < 50)]
    while len(given) < COUNT:
        some = [rng.choice(pieces) for _ in range(3)]
        if rng.random() < 0.4:
            some[0] = "".join(rng.choices(letters, k=rng.randint(1, 9)))
        template = rng.choice(TEMPLATES)
        given[template.format(*some)] = None
        given = {text: None for text in given if is_typed(text)}
    return list(given)


def class_names() -> list[str]:
    """ImageNet's, as open_clip has them."""
    import open_clip

    return list(open_clip.IMAGENET_CLASSNAMES)


def is_typed(text: str) -> bool:
    """Whether ftfy leaves its encoding alone."""
    return ftfy.fix_text(text) == ftfy.fix_text(text, fix_encoding=False)


def _settled(char: str) -> bool:
    """A character that has been the same since Unicode 3.2."""
    old = unicodedata.ucd_3_2_0
    kind = old.category(char)
    return kind[0] in "LNPSZ" and kind == unicodedata.category(char) and old.normalize("NFC", char) == char


def cut_down(texts: Sequence[str]) -> str:
    """`tokenizer.json` with single bytes, special tokens and those merges alone that could ever apply in `texts`:
    whatever order an implementation merges in, it has the choice that it has with the whole vocabulary."""
    content = json.loads(tokenizer_json())
    model = content["model"]
    pre = clip_tokenizer().tokenizer.pre_tokenizer
    words = {word for text in texts for word, _ in pre.pre_tokenize_str(clean(text))}
    everything = "\n".join(f"{word}</w>" for word in words)
    merges = [pair for pair in model["merges"] if "".join(pair) in everything]
    alphabet = [token for token in model["vocab"] if len(token.removesuffix("</w>")) == 1]
    kept = {*alphabet, START, END, *("".join(pair) for pair in merges)}
    model["vocab"] = {token: number for token, number in model["vocab"].items() if token in kept}
    model["merges"] = merges
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def entities() -> dict[str, str]:
    """HTML's named characters; a few can do without the semicolon."""
    return dict(sorted(html.entities.html5.items()))


def write(folder: Path, entities_file: Path) -> None:
    """Write every vector to `folder`, and the named characters."""
    folder.mkdir(parents=True, exist_ok=True)
    given, tokenizer, embedded = texts(), clip_tokenizer(), len(TEXTS["embedded"])
    small = cut_down(given)
    ids = [[tokenizer.start, *tokenizer.encode(text)[: CONTEXT_LENGTH - 2], tokenizer.end] for text in given]
    assert [from_json(small).encode(text) for text in given] == [tokenizer.encode(text) for text in given]
    tower = build_text_tower(CONFIG, load_text(VARIANT, "synthetic", config=CONFIG).state_dict)
    rows = encode_ids(tower, token_ids(tokenizer, given[:embedded], CONTEXT_LENGTH)).numpy()
    (folder / "embeddings.f32").write_bytes(rows.astype("<f4").tobytes())
    (folder / "tokenizer.json").write_text(small, encoding="utf-8")
    content: dict[str, Any] = {
        "format": 1,
        "written_by": "scripts/write_text_vectors.py",
        "specification": "docs/preprocessing.md#text",
        "tokenizer": "tokenizer.json",
        "tokenizer_is": "a bundle's, cut down to what these texts can reach; the ids are the whole one's",
        "context_length": CONTEXT_LENGTH,
        "embeddings": "embeddings.f32",
        "embeddings_are": f"of the first {embedded} texts, little-endian float32, a row each: T16's text tower "
        "with one block of width 64 and two heads, synthetic weights, seed 0",
        "dim": CONFIG.output_dim,
        "ids_are": "of start, text and end, without the zeros that fill the context; what is too long is cut, end last",
        "cases": [{"text": text, "cleaned": clean(text), "ids": row} for text, row in zip(given, ids)],
    }
    lines = json.dumps(content | {"cases": None}, indent=1, ensure_ascii=False)
    cases = ",\n".join(json.dumps(case, ensure_ascii=True) for case in content["cases"])
    text = lines.replace('"cases": null', f'"cases": [\n{cases}\n]')
    (folder / "tokens.json").write_text(text + "\n", encoding="utf-8")
    entities_file.write_text(json.dumps(entities(), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, ENTITIES)
