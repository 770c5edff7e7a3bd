"""What is the rule of docs/routing.md worth, on simulated engines in real time?"""
