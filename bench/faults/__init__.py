"""Which router loses what when engines break and clients leave?"""
