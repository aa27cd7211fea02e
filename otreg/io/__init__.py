"""Reading and writing surfaces, point clouds and landmarks."""
