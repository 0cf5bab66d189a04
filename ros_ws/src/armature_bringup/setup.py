"""Package of configuration and launch files; the launch files lie at the top of the repository."""

from glob import glob

from setuptools import setup

setup(
    name="armature_bringup",
    version="0.1.0",
    description="Configuration and launch files of Armature",
    license="Apache-2.0",
    packages=["armature_bringup"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/armature_bringup"]),
        ("share/armature_bringup", ["package.xml"]),
        ("share/armature_bringup/config", glob("config/*.yaml")),
        ("share/armature_bringup/config/robots", glob("config/robots/*")),
        ("share/armature_bringup/launch", glob("../../../launch/*.launch.py")),
    ],
    zip_safe=False,
)
