"""What is compared: one file per variant, behind the one interface of `bdh.models.base`."""
