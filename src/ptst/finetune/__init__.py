"""Fine-tuning: TRL's SFTTrainer on rows that are tokenised here, masks checked on real batches."""
