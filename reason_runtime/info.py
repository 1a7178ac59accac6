"""A bundle in words."""

from __future__ import annotations

from reason_runtime.bundle import Bundle
from reason_runtime.checks import known_checks
from reason_runtime.choices import run_name
from reason_runtime.engine_facts import EngineFacts
from reason_runtime.engine_store import engines, of_this_bundle
from reason_runtime.errors import BundleError
from reason_runtime.manifest import ScoreStatistics
from reason_runtime.tiles import tile_px_of


def describe(bundle: Bundle) -> str:
    """What is in a bundle and what lies beside it, one fact a line, ending with a new line.

    Raises:
        BundleError: The side-car of an engine, or a check, is broken.
    """
    manifest = bundle.manifest
    form, training = manifest.input, manifest.training
    crop = (form.resize_height_px, form.resize_width_px) != (form.height_px, form.width_px)
    resized = f", cropped from {form.resize_height_px} x {form.resize_width_px}" if crop else ""
    if form.crop_px is not None:
        left, top, width, height = form.crop_px
        resized = f", from the {height} x {width} at row {top}, column {left} of each picture"
    colour = "RGB" if form.channels == 3 else "mono"
    tile_px = tile_px_of(manifest)
    lines = [
        f"{bundle.path}: {manifest.name}, format {manifest.format_version}, made {manifest.created}, all hashes match",
        f"input       {form.height_px} x {form.width_px} {colour}{resized}; 16 bit: {form.black_level}.."
        f"{form.white_level} -> 0..255",
        f"map         {manifest.map_size_px} x {manifest.map_size_px}",
        *([f"tiles       of {tile_px} x {tile_px} at native resolution; whole parts are refused"] if tile_px else []),
        f"teacher     {manifest.method.teacher}",
        f"trained on  {training.images} images, seed {training.seed}",
    ]
    if manifest.score_statistics is None:
        lines.append("scores      no held-out good image was measured")
    else:
        lines.append(f"scores      {_described(manifest.score_statistics)}")
    if not manifest.thresholds:
        lines.append("threshold   none: every decision will be UNKNOWN")
    whole = tile_px_of(manifest) is None
    judged, promised = (
        ("good images", "good parts") if whole else ("tiles", "tiles, were those of a picture independent")
    )
    for precision, limit in manifest.thresholds.items():
        bound = f"at most {limit.false_reject_upper_bound:.2%} of {promised} (95 % confidence)"
        lines.append(
            f"threshold   {precision}: {limit.value:.6g}, rejects {limit.rejected} of {limit.images} {judged}; "
            f"{bound if training.images_known else 'no bound is known to hold'}, asked for "
            f"{limit.target_false_reject_rate:.2%}; {limit.source}"
        )
    if manifest.quantisation is not None:
        made = manifest.quantisation
        lines.append(
            f"int8        {made.layers} layers; ranges from {made.images} good images; map's SQNR "
            f"{made.sqnr_db:.1f} dB; left in fp32: {', '.join(made.float_layers) or 'none'}"
        )
        lines.append(f"            {_described(made.scores)}")
    lines += [
        f"file        {name}, {entry.size_bytes / 1e6:.2f} MB, sha256 {entry.sha256[:16]}..."
        for name, entry in manifest.files.items()
    ]
    lines += [
        f"engine      {engine.path.name}, {_target(engine.facts)}"
        + ("" if of_this_bundle(engine.facts, bundle) else "; STALE: built from another model")
        for engine in engines(bundle)
    ]
    return "\n".join([*lines, *_checks(bundle)]) + "\n"


def _checks(bundle: Bundle) -> list[str]:
    """What `reason-export check` found, and whether that counts here; an update of a library shows at loading alone."""
    lines = []
    for (backend, provider, precision), check in known_checks(bundle).items():
        if isinstance(check, BundleError):
            told = str(check)
        elif check is None:
            told = "of other files or of another processor; check again"
        elif not check.is_of_this_runtime:
            told = "made with another version of this runtime, counts no more; check again"
        else:
            verdict = "passed" if check.passed else "FAILED"
            own = "" if check.threshold is None else f", own threshold {check.threshold.value:.6g}"
            told = f"{verdict} with {check.libraries.get(backend)}, {check.facts.get('created')}{own}"
        lines.append(f"check       {run_name(backend, provider, precision)}: {told}")
    return lines


def _described(known: ScoreStatistics) -> str:
    return (
        f"{known.images} held-out good images: {known.minimum:.4g} .. {known.maximum:.4g}, mean {known.mean:.4g}, "
        f"standard deviation {known.std:.4g}"
    )


def _target(facts: EngineFacts) -> str:
    capabilities = ", ".join(facts.compute_capabilities) or "8.0 and later"
    device = f"{facts.gpu}, " if facts.gpu else ""
    return f"{facts.builder} {facts.builder_version}, {device}compute capability {capabilities}, {facts.created}"
