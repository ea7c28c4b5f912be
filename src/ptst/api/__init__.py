"""OpenAI-compatible endpoints: many chats, at once or in batches, paid for once, in a budget.

`calls.chat` asks now, `batch.chat_in_batches` asks for half the price within a day, and
`sdk.openai_client` is the SDK where files and jobs are needed. What calls brought is kept by
`kept.Kept`. Nothing is imported here: a check of an address needs no HTTP.
"""
