"""The counting model with more words, for tests whose prompts are prose and whose contexts small.

The model that counts reads a letter as a byte, so that a sentence would fill the contexts of 256
tokens that llama.cpp's tests set up for a model of theirs. This one reads letters in pairs, as long
a token as that model has, knows the marks of a gap (`/infill`) and, like it, has no chat template.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType
from heartcode_models.demo import counting

_NUMBERS = 1024
# llama.cpp knows them by these names.
_GAP = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def _pairs() -> list[str]:
    """Return what is one token beside the numbers, as the tokenizer stores it."""
    firsts = f"{counting.SPM_SPACE}{ascii_lowercase}{ascii_uppercase}"
    pairs = ["".join(pair) for pair in product(firsts, ascii_lowercase)]
    return [*pairs, *(f"{counting.SPM_SPACE}{letter}" for letter in ascii_uppercase)]


def write_model(path: Path) -> None:
    """Write it to `path`.

    Raises:
        OSError: the file cannot be written.
    """
    plan = counting.plan_layers(0)
    vocabulary = counting.vocabulary(_NUMBERS)
    pairs = _pairs()
    embedding, output = counting.embeddings(_NUMBERS)
    # Further tokens are no numbers: the model goes on with 1, and never says them.
    further = np.tile(embedding[counting.SPACE_ID], (len(pairs) + len(_GAP), 1))
    tensors = counting.model_tensors(_NUMBERS, plan) | {
        "token_embd.weight": np.concatenate([embedding, further]),
        "output.weight": np.concatenate([output, np.zeros_like(further)]),
    }
    types = [*[TokenType.NORMAL] * len(pairs), *[TokenType.CONTROL] * len(_GAP)]
    tokens = [*vocabulary.tokens, *pairs, *_GAP]
    writer = GGUFWriter(path, "llama")
    counting.add_description(writer)
    counting.add_architecture(writer, plan)
    writer.add_pooling_type(PoolingType.MEAN)  # a model for embeddings has one
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types([*vocabulary.types, *map(int, types)])
    writer.add_unk_token_id(counting.UNK_ID)
    writer.add_bos_token_id(counting.BOS_ID)
    writer.add_eos_token_id(counting.EOS_ID)
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=False)
    writer.add_add_space_prefix(value=False)
    for name, tensor in tensors.items():
        dtype = np.dtype(np.float32) if isinstance(tensor, counting.Zeros) else tensor.dtype
        writer.add_tensor_info(name, tensor.shape, dtype, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    counting.append_tensors(path, tensors)
