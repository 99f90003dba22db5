"""The manifest of a folder of shards and the list of what was set aside: both follow from the plan and the records."""

import json
from collections.abc import Sequence
from pathlib import Path

from koala.core.errors import UserError
from koala.data.shards import FORMAT, SetAside, ShardEntry, ShardManifest, ShardPlan, read_record, record_path


def assemble_manifest(folder: Path, plan: ShardPlan) -> tuple[ShardManifest, bytes]:
    """Put the records of all planned shards together.

    Returns:
        The manifest, and quarantine.jsonl.

    Raises:
        UserError: shards are missing, belong to another plan, or have damaged records.
    """
    splits: dict[str, list[ShardEntry]] = {}
    lines: list[bytes] = []
    missing = []
    for name, planned in plan.shards.items():
        path = record_path(folder, f"{name}.tar")
        record = read_record(path) if path.exists() else None  # one at a time: all of them are large
        if record is None or not record.is_of(planned):
            missing.append(name)
            continue
        split = name.partition("-")[0]
        splits.setdefault(split, []).append(ShardEntry(record.shard, record.samples, record.bytes, record.sha256))
        lines += _lines(record.quarantined, split, record.shard)
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(
            f"{folder} lacks {some} of {len(plan.shards)} shards; run the koala shards write commands again"
        )
    lines += _lines(plan.set_aside, "", "")
    manifest = ShardManifest(
        format=FORMAT,
        recipe=plan.recipe,
        read=sum(count for _, count in plan.shards.values()) + len(plan.set_aside),
        written=sum(entry.samples for entries in splits.values() for entry in entries),
        quarantined=len(lines),
        splits=splits,
        passed_over=plan.passed_over,
    )
    return manifest, b"".join(lines)


def _lines(set_aside: Sequence[SetAside], split: str, shard: str) -> list[bytes]:
    """A line for each name; in ASCII, which holds any file's name."""
    described = ({"source": name, "reason": why, "split": split, "shard": shard} for name, why in set_aside)
    return [json.dumps(line).encode() + b"\n" for line in described]
