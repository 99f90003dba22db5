"""Leaving samples out by a condition on the audit's columns."""

import ast

import numpy as np
from numpy.typing import NDArray

from koala.config.fields import Location
from koala.core.errors import UserError
from koala.data.audit import COLUMNS, TABLES, audit_path, is_current, read_audit
from koala.data.mirror import bring, local_folder
from koala.data.shards import Shards, read_manifest


def open_filtered(folder: Location, split: str, condition: str) -> Shards:
    """Open a split with the samples that meet a condition, or all for "".

    Raises:
        UserError: the shards or their audit are not there, the condition is none, or no sample meets it.
    """
    if not condition:
        return Shards.open(folder, split)
    keep = filter_samples(folder, split, condition)
    if len(keep) and not keep.any():
        raise UserError(f'no "{split}" sample in {folder} meets the condition "{condition}"; choose a milder one')
    return Shards.open(folder, split, keep)


def filter_samples(folder: Location, split: str, condition: str) -> NDArray[np.bool_]:
    """Which samples of a split meet a condition on the audit's columns.

    Args:
        folder: of shards.
        split: "train" or "val".
        condition: an expression such as "chroma >= 5 and not sepia"; see `COLUMNS` for the names in it.

    Returns:
        `(N,)` bool, N the samples of the split.

    Raises:
        UserError: the condition is none, or the split's audit is not there or of other bytes.
    """
    import pandas

    expression = " ".join(condition.split())
    columns = ["sample", *sorted(_names_in(expression) - {"sample"})]
    entries, here = read_manifest(folder).splits.get(split, []), local_folder(folder)
    bring(here, TABLES)
    for entry in entries:
        if not is_current(here, entry.shard, entry.sha256):
            raise UserError(f"{folder} holds no audit of {entry.shard} as it is; run koala shards audit {folder}")
    if not entries:
        return np.zeros(0, np.bool_)
    tables = [read_audit(here, entry.shard, columns) for entry in entries]
    for entry, table in zip(entries, tables, strict=True):
        if not np.array_equal(table["sample"], np.arange(entry.samples)):
            path = audit_path(here, entry.shard)
            raise UserError(f"{path} is damaged; delete it and run koala shards audit {folder}")
    try:
        keep = pandas.concat(tables, ignore_index=True).eval(expression, engine="python")
    except (TypeError, ValueError, NotImplementedError, SyntaxError, NameError, AttributeError) as error:
        raise UserError(f'"{condition}" cannot be worked out ({error}); try one such as {_EXAMPLE}') from None
    if not isinstance(keep, pandas.Series) or keep.dtype != np.bool_:
        raise UserError(f'"{condition}" is not true or false of each sample; write a condition such as {_EXAMPLE}')
    return keep.to_numpy(np.bool_)


_EXAMPLE = '"chroma >= 5 and not sepia"'
_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Constant, ast.List, ast.Tuple),
    *(ast.boolop, ast.unaryop, ast.cmpop, ast.Load),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.BitAnd, ast.BitOr),
)


def _names_in(expression: str) -> set[str]:
    """The columns in a condition, which may compare and calculate but not call anything.

    Raises:
        UserError: it is no such expression, or names what is no column.
    """
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f'"{expression}" is no condition; write one such as {_EXAMPLE}') from None
    if not all(isinstance(node, _ALLOWED) for node in nodes):
        raise UserError(f'"{expression}" does more than compare columns; write a condition such as {_EXAMPLE}')
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    unknown = sorted(names - set(COLUMNS))
    if unknown:
        raise UserError(f'there is no column {unknown[0]} in the condition "{expression}"; known: {", ".join(COLUMNS)}')
    return names
