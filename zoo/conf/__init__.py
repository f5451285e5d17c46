"""What other Hydra applications see of convzoo: ``pkg://zoo.conf`` holds the groups ``convzoo/model``, ``convzoo/act``.

``convzoo`` beside this file is a link to the repository's ``conf/``; the wheel holds a copy.
"""
