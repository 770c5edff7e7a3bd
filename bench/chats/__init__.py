"""Whose router brings chats back to where their KV is?"""
