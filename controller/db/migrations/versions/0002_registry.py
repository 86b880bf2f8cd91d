"""Create the tables of models, versions, datasets, conversions and releases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_REGISTRY_CONVERSION_STATE = sa.Enum(
    "queued", "running", "succeeded", "failed", "canceled", native_enum=False, create_constraint=True, length=32
)
_REGISTRY_CONVERSION_FAILURE = sa.Enum(
    "bad_input",
    "unsupported_op",
    "out_of_memory",
    "timed_out",
    "crashed",
    "nothing_passed",
    native_enum=False,
    create_constraint=True,
    length=32,
)
_REGISTRY_CONVERSION_OBJECTIVE = sa.Enum("smallest", "fastest", native_enum=False, create_constraint=True, length=32)
_REGISTRY_DATASET_KIND = sa.Enum("arrays", "images", native_enum=False, create_constraint=True, length=32)
_REGISTRY_VERSION_SOURCE_FORMAT = sa.Enum(
    *("keras", "saved_model", "tfjs", "jax", "pytorch", "onnx", "sklearn", "tflite"),
    native_enum=False,
    create_constraint=True,
    length=32,
)


def upgrade() -> None:
    _create_registry_conversion()
    _create_registry_dataset()
    _create_registry_model()
    _create_registry_release()
    _create_registry_version()


def downgrade() -> None:
    op.drop_table("registry_version")
    op.drop_table("registry_release")
    op.drop_table("registry_model")
    op.drop_table("registry_dataset")
    op.drop_table("registry_conversion")


def _create_registry_conversion() -> None:
    op.create_table(
        "registry_conversion",
        sa.Column("conversion_id", sa.String(length=36), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("dataset_sha256", sa.String(length=64), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("schemes", sa.Text(), nullable=False),
        sa.Column("profiles", sa.Text(), nullable=False),
        sa.Column("budget", sa.Text(), nullable=False),
        sa.Column("objective", _REGISTRY_CONVERSION_OBJECTIVE, nullable=False),
        sa.Column("image_input", sa.Boolean(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=True),
        sa.Column("runtimes", sa.Text(), nullable=False),
        sa.Column("state", _REGISTRY_CONVERSION_STATE, nullable=False),
        sa.Column("step", sa.String(length=200), nullable=False),
        sa.Column("fraction", sa.Float(), nullable=False),
        sa.Column("failure", _REGISTRY_CONVERSION_FAILURE, nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("artifacts", sa.Text(), nullable=False),
        sa.Column("candidates", sa.Text(), nullable=False),
        sa.Column("card", sa.Text(), nullable=True),
        sa.Column("result_sha256", sa.String(length=64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("conversion_id", name=op.f("pk_registry_conversion")),
    )
    _index_registry_conversion()


def _index_registry_conversion() -> None:
    with op.batch_alter_table("registry_conversion", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_registry_conversion_state"), ["state"], unique=False)


def _create_registry_dataset() -> None:
    op.create_table(
        "registry_dataset",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("licence", sa.String(length=100), nullable=False),
        sa.Column("kind", _REGISTRY_DATASET_KIND, nullable=False),
        sa.Column("shards", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_registry_dataset")),
    )


def _create_registry_model() -> None:
    op.create_table(
        "registry_model",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_registry_model")),
    )


def _create_registry_release() -> None:
    op.create_table(
        "registry_release",
        sa.Column("release_id", sa.String(length=36), nullable=False),
        sa.Column("conversion_id", sa.String(length=36), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("release_counter", sa.Integer(), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=True),
        sa.Column("manifest_bytes", sa.Integer(), nullable=False),
        sa.Column("artifacts", sa.Text(), nullable=False),
        sa.Column("profile_order", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("release_id", name=op.f("pk_registry_release")),
        sa.UniqueConstraint("release_counter", name=op.f("uq_registry_release_release_counter")),
    )
    _index_registry_release()


def _index_registry_release() -> None:
    with op.batch_alter_table("registry_release", schema=None) as batch_op:
        batch_op.create_index(
            "ix_registry_release_live",
            ["conversion_id"],
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )
        batch_op.create_index(batch_op.f("ix_registry_release_model"), ["model"], unique=False)


def _create_registry_version() -> None:
    op.create_table(
        "registry_version",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("source_format", _REGISTRY_VERSION_SOURCE_FORMAT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "number", name=op.f("pk_registry_version")),
        sa.UniqueConstraint("model", "sha256", name=op.f("uq_registry_version_model_sha256")),
    )
