"""Which files of a folder are those of a model that was saved there, and which are its tokenizer's.

A model that is saved over another one replaces them and no others: what else lies in the folder is its user's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePath

from secateur.surgery import compact
from secateur.surgery.compact.integrity import CARD, CONFIG, GENERATION
from secateur.surgery.sentence.folder import FILES, FOLLOWING, dense_files

WEIGHTS = re.compile(r"(?:pytorch_)?model(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)(?:\.index\.json)?")
"""Names of weights, of their shards and of the index of these, those in a pickle too, as transformers writes them."""
MODULES = re.compile(rf"\d+_(?:Pooling|{'|'.join(FOLLOWING)})")
"""Names of the folders of a sentence head."""
OF_MODEL = {CONFIG, GENERATION, compact.PLAN, compact.SUMS, f"{compact.CODE}.py", *FILES}
"""Names of the other files at the top of a folder that a save of a model writes, besides its card."""
SETTINGS = ("tokenizer_config.json", "tokenizer.json", "preprocessor_config.json")
"""Files one of which every tokenizer and every image processor has."""
OF_TOKENIZER = {
    *SETTINGS,
    *("special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "target_vocab.json"),
    *("spiece.model", "spm.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm", "target.spm"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates"),
    *("processor_config.json", "video_preprocessor_config.json"),
}
"""Names of the files of tokenizers and image processors, and of the folder with further templates of chats."""


def is_kept(folder: Path, *, new_tokenizer: bool) -> Callable[[PurePath], bool]:
    """Whether a file of a folder, by its path in it, stays when a model is saved there.

    What is in the place of a file that the new model writes is replaced anyway.

    Args:
        new_tokenizer: whether a tokenizer is saved with the model, so that all files of the one that is there go.
    """
    of_model = (folder / CONFIG).is_file() and any(WEIGHTS.fullmatch(path.name) for path in _content(folder))
    of_tokenizer = new_tokenizer and _has_tokenizer(folder)

    def kept(path: PurePath) -> bool:
        name = path.parts[0]
        model = name in OF_MODEL or WEIGHTS.fullmatch(name) or MODULES.fullmatch(name)
        return not ((of_model and model) or (of_tokenizer and name in OF_TOKENIZER))

    return kept


def weight_files(folder: Path) -> dict[Path, str]:
    """The files of safetensors of a folder's model -> what the names of their tensors begin with in the model.

    They are the file or the shards at the top, and those of the linear layers of a sentence head; none without the
    former.
    """
    files = dict.fromkeys(sorted(folder.glob("*.safetensors")), "")
    return files | dense_files(folder) if files else {}


def copy_card(folder: Path, other: Path) -> None:
    """Copy the card of a folder to another one, if it has one."""
    if (folder / CARD).is_file():
        shutil.copyfile(folder / CARD, other / CARD)


def copy_tokenizer(folder: Path, other: Path) -> None:
    """Copy the files of a folder's tokenizer to another one, if it has one."""
    for path in _content(folder) if _has_tokenizer(folder) else ():
        if path.name in OF_TOKENIZER:
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, other / path.name)


def _content(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SETTINGS)
