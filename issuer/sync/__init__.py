"""What gateways judge by, brought to each of them."""
