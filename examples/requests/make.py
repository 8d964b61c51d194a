"""Makes what a company has before its first request to delete: photos of people, and a model that was trained on them.

    python examples/requests/make.py --data path/to/cifar10
    python examples/requests/make.py --data path/to/cifar10 --out made --classes 10 --photos 5000 --epochs 20

It writes OUT/photos/{train,test}/CLASS/NAME.png, OUT/people.csv (photo, person), OUT/request-1.csv and
OUT/request-2.csv (all photos of one person each, in the columns of people.csv), and OUT/deployed, a vision
transformer that `transformers.Trainer` trained on the photos, as `save_pretrained` writes it.
"""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from PIL import Image
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
"""Of the channels of CIFAR-10."""
PHOTOS_OF_ONE = 10
"""Photos of each person."""
SIZE = 32


def main() -> None:
    """Makes all of it; nothing of it may be there yet."""
    args = parse_args()
    if args.out.exists():
        sys.exit(f"{args.out} is there. Remove it, or choose another folder with --out.")
    datasets.disable_progress_bars()
    train, test = (write_photos(args, part) for part in ("train", "test"))
    write_people(args.out, train, np.random.default_rng(args.seed))
    model, processor = train_model(args, train, test)
    model.save_pretrained(args.out / "deployed")
    processor.save_pretrained(args.out / "deployed")


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("made/requests"), help="folder (default: made/requests)")
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's parquet files, or a set of its layout")
    parser.add_argument("--photos", type=int, default=800, help="to train on (default: 800), and half as many to test")
    parser.add_argument("--classes", type=int, default=4, help="of how many classes (default: 4)")
    parser.add_argument("--epochs", type=int, default=40, help="of training (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    return parser.parse_args()


def write_photos(args: argparse.Namespace, part: str) -> list[tuple[str, int]]:
    """Writes a part's photos; returns path below OUT/photos/PART and class of each, all classes alike."""
    table = datasets.load_dataset("parquet", data_files={part: f"{args.data}/{part}-*.parquet"}, split=part)
    names = table.features["label"].names[: args.classes]
    each = (args.photos if part == "train" else args.photos // 2) // len(names)
    labels = np.array(table["label"])
    table = table.cast_column("img", datasets.Image(decode=False))
    written = []
    for label, name in enumerate(names):
        folder = args.out / "photos" / part / name
        folder.mkdir(parents=True)
        for i in np.flatnonzero(labels == label)[:each].tolist():
            path = folder / f"{name}-{i:05d}.png"
            Image.open(io.BytesIO(table[i]["img"]["bytes"])).convert("RGB").save(path)
            written.append((f"{name}/{path.name}", label))
    return written


def write_people(out: Path, photos: list[tuple[str, int]], rng: np.random.Generator) -> None:
    """Gives every photo to a person, and writes the requests of the first two."""
    people = [(photos[i][0], f"person-{k // PHOTOS_OF_ONE:03d}") for k, i in enumerate(rng.permutation(len(photos)))]
    write_table(out / "people.csv", people)
    for number in (1, 2):
        write_table(out / f"request-{number}.csv", [row for row in people if row[1] == f"person-{number - 1:03d}"])


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    """Writes photos and whose they are."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "person"), *rows])


def train_model(
    args: argparse.Namespace, train: list[tuple[str, int]], test: list[tuple[str, int]]
) -> tuple[ViTForImageClassification, Any]:
    """Trains a small vision transformer as any user of transformers does."""
    transformers.set_seed(args.seed)
    processor = ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=list(MEAN), image_std=list(STD))
    names = sorted({path.partition("/")[0] for path, _ in train})
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            patch_size=4,
            image_size=SIZE,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )

    def prepared(part: str, photos: list[tuple[str, int]]) -> list[dict[str, Any]]:
        images = [Image.open(args.out / "photos" / part / path) for path, _ in photos]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        return [{"pixel_values": x, "labels": label} for x, (_, label) in zip(pixels, photos, strict=True)]

    settings = TrainingArguments(
        output_dir=str(args.out / "trainer"),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=64,
        learning_rate=1e-3,
        weight_decay=0.05,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=args.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model, settings, train_dataset=prepared("train", train), eval_dataset=prepared("test", test),
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(1) == seen.label_ids).mean())},
    )  # fmt: skip
    trainer.train()
    print(f"accuracy on {len(test)} test photos: {100 * trainer.evaluate()['eval_accuracy']:.1f} %")
    return model.eval(), processor


if __name__ == "__main__":
    main()
