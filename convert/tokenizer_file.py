"""CLIP's tokenizer as one `tokenizer.json`, made from the vocabulary that open_clip carries: no download."""

from functools import cache
from pathlib import Path

from pecore.files import write_text
from pecore.tokenizer import END, START, ClipTokenizer, from_json

LONG_S = "\u017f"
WORDS = rf"{START}|{END}|'[s{LONG_S}]|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"
"""open_clip's pattern of a word, for lower-cased text: its `(?i:`, which some readers lack, takes a long s, too."""


@cache
def clip_tokenizer() -> ClipTokenizer:
    """CLIP's tokenizer, in memory."""
    return from_json(tokenizer_json())


def write_tokenizer(path: Path) -> ClipTokenizer:
    """Write `tokenizer.json` and return what it describes."""
    write_text(path, tokenizer_json())
    return clip_tokenizer()


@cache
def tokenizer_json() -> str:
    """The content of the file: for readers other than ours it also normalizes (NFC, white space, lower case) and adds
    start and end."""
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    clip = SimpleTokenizer()
    merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.__getitem__)
    vocabulary = dict(clip.encoder)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, end_of_word_suffix="</w>", continuing_subword_prefix="", fuse_unk=False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in (START, END)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, clip.sot_token_id), (END, clip.eot_token_id)]
    )
    return tokenizer.to_str()
