"""Draws docs/images/data-flow.svg: python docs/_scripts/data_flow.py."""

from pathlib import Path

WIDTH, BOX, GAP, LEFT, FILE_LEFT = 760, 44, 16, 20, 420
STEPS = (
    ("source", "local folder or Hugging Face; metadata only", "labels.csv, photos"),
    ("table, groups, splits", "which rows must stay together; four splits", "splits.json"),
    ("sampler, images, augmentation", "GPS weights, pixels, batches on the device", "NATIXDataModule"),
    ("model", "backbone, head, adapter", "a transformers network"),
    ("training", "Lightning with MCC, EMA and health callbacks", "checkpoints/, metrics.jsonl"),
    ("evaluation", "logits, position, group and slices of each row", "predictions.parquet, results.json"),
    ("calibration", "temperature, threshold, abstention", "calibration.json"),
    ("report", "scores, curves, errors, map", "report.html"),
    ("export", "the threshold folded into the head", "model folder, ONNX"),
    ("detector", "predict a folder, serve over HTTP", "csv, GeoJSON, JSON"),
)


def draw() -> str:
    """The diagram: a column of steps, and beside each what it hands on."""
    height = len(STEPS) * (BOX + GAP) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L10 5 L0 10 z" fill="#455a64"/></marker></defs>',
    ]
    for number, (name, what, result) in enumerate(STEPS):
        top = 10 + number * (BOX + GAP)
        middle = top + BOX / 2
        parts += [
            f'<rect x="{LEFT}" y="{top}" width="340" height="{BOX}" rx="6" fill="#fff3e0" stroke="#e65100"/>',
            f'<text x="{LEFT + 12}" y="{top + 19}" font-size="15" font-weight="bold" fill="#212121">{name}</text>',
            f'<text x="{LEFT + 12}" y="{top + 36}" font-size="12" fill="#424242">{what}</text>',
            f'<line x1="{LEFT + 340}" y1="{middle}" x2="{FILE_LEFT - 4}" y2="{middle}" stroke="#455a64" '
            'stroke-dasharray="4 3" marker-end="url(#tip)"/>',
            f'<rect x="{FILE_LEFT}" y="{top}" width="320" height="{BOX}" rx="6" fill="#eceff1" stroke="#607d8b"/>',
            f'<text x="{FILE_LEFT + 12}" y="{top + 27}" font-size="14" font-family="monospace" fill="#212121">'
            f"{result}</text>",
        ]
        if number + 1 < len(STEPS):
            parts.append(
                f'<line x1="{LEFT + 170}" y1="{top + BOX}" x2="{LEFT + 170}" y2="{top + BOX + GAP - 2}" '
                'stroke="#455a64" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("images", "data-flow.svg").write_text(draw(), encoding="utf-8")
