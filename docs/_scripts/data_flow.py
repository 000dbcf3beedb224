"""Draws docs/images/data-flow.svg: python docs/_scripts/data_flow.py."""

from pathlib import Path

WIDTH, BOX, GAP, LEFT = 460, 66, 18, 10
SVG = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
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
    """The diagram: a column of steps, each with what it hands on."""
    height = len(STEPS) * (BOX + GAP) + 2
    middle = WIDTH / 2
    parts = [
        f'<svg {SVG} viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        (
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto">'
            '<path d="M0 0 L10 5 L0 10 z" fill="#455a64"/></marker></defs>'
        ),
    ]
    inner = f'width="{WIDTH - 2 * LEFT}" height="{BOX}" rx="6" fill="#fff3e0" stroke="#e65100"'
    text = f'<text x="{LEFT + 12}"'
    for number, (name, what, result) in enumerate(STEPS):
        top = 10 + number * (BOX + GAP)
        parts += [
            f'<rect x="{LEFT}" y="{top}" {inner}/>',
            f'{text} y="{top + 20}" font-size="16" font-weight="bold" fill="#212121">{name}</text>',
            f'{text} y="{top + 38}" font-size="14" fill="#424242">{what}</text>',
            f'{text} y="{top + 57}" font-size="14" font-family="monospace" fill="#bf360c">{result}</text>',
        ]
        if number + 1 < len(STEPS):
            parts.append(
                f'<line x1="{middle}" y1="{top + BOX}" x2="{middle}" y2="{top + BOX + GAP - 2}" '
                'stroke="#455a64" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("images", "data-flow.svg").write_text(draw(), encoding="utf-8")
