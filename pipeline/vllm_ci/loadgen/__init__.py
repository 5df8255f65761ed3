"""The measuring client: records what a server sends and when, and parses it afterwards.

``recorder.Recorder`` is the synchronous interface (for pytest suites), ``client.Client`` the asynchronous one. Both return an
``exchange.Exchange``; ``stream.Stream`` interprets it as a streamed completion.
"""
