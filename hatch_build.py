"""Hatch build hook: ships conf/ in the wheel as zoo/conf/convzoo; editable installs use the clone's symlink there."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "standard":
            build_data["force_include"]["conf"] = "zoo/conf/convzoo"
