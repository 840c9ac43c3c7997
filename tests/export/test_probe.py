def test_made(made):
    print(made)
def test_store(store):
    import mlflow
    assert mlflow.get_tracking_uri() == store
