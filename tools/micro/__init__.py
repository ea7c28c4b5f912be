"""The micro world's maker: tokenizer, texts and training of the model in src/ptst/micro/model."""
