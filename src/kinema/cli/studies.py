"""`kinema studies`: what ships."""

from __future__ import annotations

from kinema.cli.console import JsonOption, Output


def studies(json_file: JsonOption = None) -> None:
    """List the shipped studies."""
    from kinema.studies.study import names, read_study

    output = Output(json_file)
    rows = []
    for name in names():
        study = read_study(name)
        num = study.file.trials if study.file.space else len(study.settings)
        rows.append({"name": name, "settings": num, "about": " ".join(study.file.about.split())})
    output.table(["name", "settings", "about"], [list(row.values()) for row in rows])
    output.say("run one with: kinema study run NAME [section.key=value]...")
    output.finish(rows)
