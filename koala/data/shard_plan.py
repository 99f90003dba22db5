"""Which image goes into which shard: pure, from the source's names and the recipe alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import PurePosixPath

from koala.config.data import ShardRecipe, SplitRule
from koala.config.load import to_dict
from koala.core.errors import UserError
from koala.data.places import SourceItem
from koala.data.sampler import seeded_permutation
from koala.data.shards import FORMAT, SPLITS, ShardPlan
from koala.data.sources import Listing


@dataclass(frozen=True)
class PlannedShard:
    """Which images a shard is to hold: their numbers in the shuffled data set, and themselves."""

    split: str
    name: str
    numbers: tuple[int, ...]
    items: tuple[SourceItem, ...]

    def digest(self, recipe: ShardRecipe) -> str:
        """sha256 of all that decides the shard's content, but the images' own bytes."""
        deciding, usual = to_dict(recipe), to_dict(ShardRecipe())
        for limit in ("max_bytes", "max_pixels"):
            if deciding[limit] == usual[limit]:
                del deciding[limit]  # shards are older than these settings
        plan = [FORMAT, deciding, self.split, self.numbers, [item.name for item in self.items]]
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def plan_shards(listing: Listing, recipe: ShardRecipe) -> list[PlannedShard]:
    """Shuffle the images over the whole set, split them and cut them into shards."""
    numbered = _shuffled(listing, recipe.seed)[: recipe.limit or None]
    plan = []
    for split, members in zip(SPLITS, _divide(numbered, recipe.split), strict=True):
        for index, start in enumerate(range(0, len(members), recipe.samples_per_shard)):
            numbers, items = zip(*members[start : start + recipe.samples_per_shard], strict=True)
            plan.append(PlannedShard(split, f"{split}-{index:06d}", numbers, items))
    return plan


def describe_plan(listing: Listing, shards: Sequence[PlannedShard], recipe: ShardRecipe) -> ShardPlan:
    """The plan as it lies beside the shards; with it goes what of the source is in none of them."""
    set_aside = [(name, reason) for name, reason in listing.set_aside if _is_wanted(name, recipe.split)]
    drawn = min(len(listing.images), recipe.limit or len(listing.images))
    left_out = {
        "beyond the recipe's limit": len(listing.images) - drawn,
        "outside the folders of the split": drawn
        - sum(len(shard.items) for shard in shards)
        + len(listing.set_aside)
        - len(set_aside),
    }
    counts = listing.passed_over | {what: count for what, count in left_out.items() if count}
    return ShardPlan(
        format=FORMAT,
        recipe=to_dict(recipe),
        shards={shard.name: (shard.digest(recipe), len(shard.items)) for shard in shards},
        set_aside=set_aside,
        passed_over=dict(sorted(counts.items())),
    )


_Numbered = list[tuple[int, SourceItem]]


def _shuffled(listing: Listing, seed: int) -> _Numbered:
    """The images in a random order, with their numbers in it.

    Texts among them have numbers, too, and are then left out: once they were taken for images, and so the shards of
    ImageNet stay what they were.
    """
    everything: list[SourceItem | str] = sorted([*listing.images, *listing.texts], key=_name)
    drawn = enumerate(everything[i] for i in seeded_permutation(len(everything), seed))
    return [(number, item) for number, item in drawn if not isinstance(item, str)]


def _name(item: SourceItem | str) -> str:
    return item if isinstance(item, str) else item.name


def _divide(numbered: _Numbered, split: SplitRule) -> tuple[_Numbered, _Numbered]:
    """Training and validation images."""
    if split.train_folder or split.val_folder:
        train, val = (_in_folder(numbered, folder) for folder in (split.train_folder, split.val_folder))
        return train or _without(numbered, val), val or _without(numbered, train)
    count = split.val_count or round(split.val_share * len(numbered))
    if count > len(numbered):
        raise UserError(f"{count} validation images are asked for, but there are {len(numbered)}; lower val_count")
    return numbered[count:], numbered[:count]


def _without(numbered: _Numbered, others: _Numbered) -> _Numbered:
    taken = {number for number, _ in others}
    return [image for image in numbered if image[0] not in taken]


def _in_folder(numbered: _Numbered, folder: str) -> _Numbered:
    if not folder:
        return []
    found = [image for image in numbered if _is_below(image[1].name, folder)]
    if not found:
        raise UserError(f'no image lies below "{folder}"; correct the split of the recipe, or --source')
    return found


def _is_wanted(name: str, split: SplitRule) -> bool:
    """Whether what has this name would have been in one of the sets."""
    both = split.train_folder and split.val_folder
    return not both or _is_below(name, split.train_folder) or _is_below(name, split.val_folder)


def _is_below(name: str, folder: str) -> bool:
    return _matches(name.rpartition("/")[0], folder.rstrip("/"))


@cache
def _matches(path: str, folder: str) -> bool:
    """Whether a path is a folder, or lies below it; the folder may be a pattern."""
    above = [str(each) for each in (PurePosixPath(path), *PurePosixPath(path).parents)]
    return folder in above or any(fnmatchcase(each, folder) for each in above)
