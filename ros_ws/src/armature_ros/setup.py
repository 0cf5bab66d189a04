"""Package of the ROS 2 nodes; built by colcon (ament_python) and installable by pip alike."""

from setuptools import find_packages, setup

NODES = (
    "sim_node",
    "policy_node",
    "control_node",
    "recorder_node",
    "camera_node",
    "teleop_node",
    "takeover_node",
    "mock_arm_node",
    "residual_node",
    "learner_node",
)

setup(
    name="armature_ros",
    version="0.1.0",
    description="ROS 2 nodes of Armature",
    license="Apache-2.0",
    packages=find_packages(),
    package_data={"armature_ros": ["*.xml", "*.html"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/armature_ros"]),
        ("share/armature_ros", ["package.xml"]),
    ],
    python_requires=">=3.11",
    zip_safe=False,
    entry_points={"console_scripts": [f"{node} = armature_ros.{node}:main" for node in NODES]},
)
