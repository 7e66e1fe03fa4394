"""`report`: all that was done as one page that needs no other file."""

from __future__ import annotations

from functools import partial
from typing import Any

from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.scene_files import scene_name
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.project import VIEWS_FILE
from instance_nerfstudio.pipeline.stages.refine import final_field, refine_stages

REPORT_FILE = "report.html"


def report_stage(options: SceneOptions) -> Stage:
    """Draws the report."""
    rounds = [stage.name for stage in refine_stages(options)]
    return Stage(
        name="report",
        run=partial(_report, options),
        after=("radiance", "density", "detect", "segment", "project", "match", "train", *rounds, "export"),
        options={"report_views": options.report.report_views},
        products=(REPORT_FILE,),
    )


def _report(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    from instance_nerfstudio.masks.instances_json import INSTANCES_FILE, MASKS_FOLDER
    from instance_nerfstudio.pipeline.report.page import ReportPage, write_report
    from instance_nerfstudio.pipeline.report.rows import instance_rows, stage_rows
    from instance_nerfstudio.pipeline.report.view_pictures import ViewPictures, choose_views
    from instance_nerfstudio.pipeline.view_list import read_views
    from instance_nerfstudio.segments.segments_folder import read_segments

    views = read_views(context.output("project") / VIEWS_FILE, options.data)
    held_out, training = (choose_views(views, options.report.report_views, which) for which in (True, False))
    pictures = ViewPictures(
        read_segments(context.output("segment")),
        context.output("match") / MASKS_FOLDER,
        context.output("export") / MASKS_FOLDER,
    )
    task = context.progress.add_task("Report", total=len(held_out) + len(training))
    rows = {}
    for view in [*held_out, *training]:
        rows[view.name] = pictures.of(view)
        context.progress.advance(task)
    records = list(context.records.values())
    trained = [(record.stage, record.result["agreement"]) for record in records if record.result.get("agreement")]
    instances = instance_rows(context.output("export") / INSTANCES_FILE, context.output("match") / INSTANCES_FILE)
    page = ReportPage(
        scene=scene_name(options.data),
        data=str(options.data),
        run=str(context.target.parent),
        train_config=str(final_field(context)[0]),
        held_out=[rows[view.name] for view in held_out],
        training=[rows[view.name] for view in training],
        stages=stage_rows(records),
        instances=instances,
        agreement=trained,
        truth=context.result("export")["truth"],
        facts=_facts(context),
        warnings=[(record.stage, warning) for record in records for warning in record.warnings],
        versions=records[-1].versions,
    )
    write_report(context.work / REPORT_FILE, page)
    return {"views": len(rows), "summary": f"{context.target / REPORT_FILE}"}


def _facts(context: StageContext) -> list[tuple[str, str]]:
    """What the header says."""
    segment, match, export = (context.result(name) for name in ("segment", "match", "export"))
    detected = context.result("detect")["instances"]
    facts = [
        ("photos", str(segment["photos"])),
        ("instances", str(export["instances"])),
        ("segments", f"{segment['segments']}, {segment['source']}"),
        ("3D detector", "none" if detected is None else f"{detected} instances"),
        ("matcher", match["matcher"]),
    ]
    psnr = context.result("radiance").get("psnr")
    return facts if psnr is None else [*facts, ("held-out PSNR", f"{psnr:.1f} dB")]
