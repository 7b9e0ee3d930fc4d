"""The project folder: files, errors, processes, devices, dvc.yaml and dvc.lock, source fingerprints."""
