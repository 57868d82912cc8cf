//! Applies the migrations.
