"""The measuring client: records what a server sends and when, and parses it afterwards.

``recorder.Recorder`` is the synchronous door (pytest suites), ``client.Client`` the asynchronous one (load generator);
``exchange.Exchange`` is what both return and ``stream.Stream`` the view of one as a streamed completion.
"""
