# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The rules of tools/tidy: source text (text.py), C functions (code.py), build products (binary.py)."""
