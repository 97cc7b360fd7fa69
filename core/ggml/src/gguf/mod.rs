//! GGUF files: checked parsing over a memory map, and writing.
