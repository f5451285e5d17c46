"""Puts conf/ into the wheel as zoo/conf/convzoo, where an editable install finds it through the link in the clone."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "standard":
            build_data["force_include"]["conf"] = "zoo/conf/convzoo"
