"""What `pecore serve` serves: one bundle over HTTP, in Roboflow's and OpenAI's shapes, and the web page beside it.

`app.create_app` is the ASGI application; `api` lists its endpoints, and the OpenAPI document is made of the same list.
Needs the `serve` extra, and no PyTorch.
"""
