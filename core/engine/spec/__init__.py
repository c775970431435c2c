"""The contract between the engine and its drivers.

It imports the standard library, pydantic and pluggy; nothing of ours.

Authors import it through `engine_sdk`.
"""
