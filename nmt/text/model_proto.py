"""The content of a sentencepiece model file (``ModelProto``)."""

from __future__ import annotations

from typing import Any

from nmt.config import DataError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces (``ModelProto.SentencePiece.Type``)."""

MAX_PIECES = 1 << 19
"""Of a sentencepiece model: twice as many as any model has."""


def parse_model(model: bytes, name: str) -> Any:
    """The pieces, rules and settings of a model.

    Args:
        model: the serialised model.
        name: where it comes from, for messages.

    Returns:
        A ``ModelProto`` with at least one piece.

    Raises:
        DataError: not a sentencepiece model, or one of too many pieces.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as messages

    proto: Any = getattr(messages, "ModelProto")()  # noqa: B009 - its classes are made on import, unseen by mypy
    try:
        proto.ParseFromString(model)
        if len(proto.pieces) > MAX_PIECES:
            raise DataError(f"{name}: {len(proto.pieces)} pieces, but {MAX_PIECES} are the most that are read")
        for piece in proto.pieces:
            piece.piece  # noqa: B018 - decoded when it is looked at
    except (DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not a sentencepiece model (truncated, or another kind of file)") from error
    if not proto.pieces:
        raise DataError(f"{name}: not a sentencepiece model (it has no pieces)")
    return proto
