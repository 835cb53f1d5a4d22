"""Packages fastslow: for `pip install .`, and as Beam's --setup_file shipped to Flink and Dataflow workers."""

from setuptools import find_packages, setup

setup(
    name="fastslow",
    version="0.1.0",
    description="Offline indexing for text-to-image and text-to-video search: retrieve fast, rerank slow.",
    python_requires=">=3.11,<3.13",
    packages=[*find_packages(include=["schemas*", "encoders*", "pipelines*"]), "pipelines.configs"],
    package_dir={"pipelines.configs": "configs"},
    package_data={
        "pipelines.configs": ["*/*.yaml"],
        "pipelines.evaluate": ["*.html"],
        "encoders": ["checkpoints/*/*"],
    },
    entry_points={"console_scripts": ["fastslow = pipelines.cli:main"]},
    # Solved and run together; requirements.txt pins every one of them, and what they bring, to a version.
    install_requires=[
        "accelerate>=1.10",
        "altair>=6",
        "apache-beam==2.77.0",
        "autofaiss==2.18.0",
        "braceexpand>=0.1.7",
        "av>=15",
        "faiss-cpu>=1.9,<1.14",  # 1.14 breaks autofaiss 2.18: OPQMatrix(d, M=...) is a TypeError
        "filelock>=3.16",
        "fsspec",
        "aiohttp",
        "requests",
        "ir-measures>=0.4",
        "jinja2>=3.1",
        "numpy<2",  # autofaiss
        "packaging",
        "pillow>=11",
        "prometheus-client>=0.22",
        "pyarrow>=24,<26",  # 26 needs numpy 2
        "pydantic>=2.12",
        "pyyaml>=6",
        "rich>=14",
        "safetensors>=0.5",
        "scipy",
        "sentencepiece>=0.2",  # the original SigLIP tokenizers
        "simplejpeg>=1.8",
        "tenacity>=9",
        "torch>=2.11,<2.14",
        "transformers>=5.17,<6",
        "typer>=0.20",
        "vl-convert-python>=1.8",
    ],
    extras_require={"s3": ["s3fs>=2026.9"], "gcs": ["gcsfs>=2026.9"], "dataflow": ["apache-beam[gcp]==2.77.0"]},
)
