"""Which image goes into which shard."""

from pathlib import Path

import pytest

from koala.config.data import ShardRecipe, SplitRule
from koala.core.errors import UserError
from koala.data.places import FolderPlace, SourceItem
from koala.data.shard_plan import describe_plan, plan_shards
from koala.data.sources import Listing, list_source
from tests.packing import lay_out

BASE = "ILSVRC/Data/CLS-LOC"
PLANNED_BY_0_1 = {  # by koala 0.1 (fdc8e02), which shuffled texts among the images
    "train-000000": ("b6ae6f2cb7189cf5585ca2eb8ba6bbbaa04c7986a3eb764f34fececa390f2387", 6),
    "train-000001": ("12d82d322cae83aa2059abf240570057be9ec29860f8a39b3768f2a37697d267", 6),
    "train-000002": ("4ca9b2c4c36e011150069b8794cffa844e191612807e482556bf1e5e474633d6", 6),
    "train-000003": ("34ea8217b2b54888cfb771de5968047bce3c592364c4a05f5588c720b0ec05a9", 6),
    "val-000000": ("53b305b71b92000c029adffa5049b1426098c0a8026d620a80c4e58178a5315a", 6),
    "val-000001": ("d827696697266aa93cf8e724937f744384f6eede8db45137817284be7981c143", 2),
}


def listing_of(*names):
    source = Path("source")
    return Listing(source, [SourceItem(name, FolderPlace(source)) for name in sorted(names)])


def test_kaggles_imagenet_is_planned_as_it_always_was(tmp_path):
    train = [f"n0144076{c}/n0144076{c}_{i}" for c in range(3) for i in range(8)]
    names = [f"{BASE}/train/{name}.JPEG" for name in train]
    names += [f"ILSVRC/Annotations/CLS-LOC/train/{name}.xml" for name in train]
    names += [f"{BASE}/val/ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 9)]
    names += ["LOC_synset_mapping.txt", "LOC_val_solution.csv", "ILSVRC/ImageSets/CLS-LOC/val.txt"]
    listing = list_source(lay_out(tmp_path, dict.fromkeys(names, b"")))
    recipe = ShardRecipe(samples_per_shard=6, split=SplitRule(f"{BASE}/train", f"{BASE}/val"))
    plan = describe_plan(listing, plan_shards(listing, recipe), recipe)
    assert plan.shards == PLANNED_BY_0_1
    assert plan.passed_over == {".txt of images": 1, ".xml of images": 24, "lists of classes": 2}


@pytest.mark.parametrize(
    ("folder", "below"),
    [
        ("train", {"train/1", "train/a/2"}),
        ("train/", {"train/1", "train/a/2"}),
        ("train/a", {"train/a/2"}),
        ("*train", {"train/1", "train/a/2", "x/img_train/3"}),
        ("x/*", {"x/img_train/3", "x/y/4"}),
        ("[a]", {"[a]/5"}),
    ],
)
def test_a_split_by_folders_or_patterns(folder, below):
    listing = listing_of("train/1", "train/a/2", "x/img_train/3", "x/y/4", "[a]/5", "trainer/6", "train.jpg")
    shards = plan_shards(listing, ShardRecipe(split=SplitRule(train_folder=folder)))
    found = {shard.split: {item.name for item in shard.items} for shard in shards}
    assert found["train"] == below
    assert found["val"] == {item.name for item in listing.images} - below


def test_a_folder_that_holds_nothing_is_refused():
    with pytest.raises(UserError, match='no image lies below "test"; correct the split'):
        plan_shards(listing_of("train/1"), ShardRecipe(split=SplitRule(train_folder="test")))


def test_what_lies_outside_of_both_folders_is_counted():
    listing = listing_of("train/1", "val/2", "test/3", "4")
    listing.set_aside.extend([("train/pipe", "a named pipe"), ("test/pipe", "a named pipe")])
    recipe = ShardRecipe(split=SplitRule("train", "val"))
    plan = describe_plan(listing, plan_shards(listing, recipe), recipe)
    assert plan.set_aside == [("train/pipe", "a named pipe")]
    assert plan.passed_over == {"outside the folders of the split": 3}


def test_a_limit_counts_images_alone_and_splits_them():
    listing = listing_of(*(f"{number:02}.jpg" for number in range(20)))
    listing.texts.extend(f"{number:02}.txt" for number in range(20))
    recipe = ShardRecipe(limit=10, split=SplitRule(val_share=0.3))
    shards = plan_shards(listing, recipe)
    assert [(shard.split, len(shard.items)) for shard in shards] == [("train", 7), ("val", 3)]
    assert describe_plan(listing, shards, recipe).passed_over == {"beyond the recipe's limit": 10}
