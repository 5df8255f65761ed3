from registries.fixtures import _access, _no_configuration_of_this_machine, _proxy, _registry, _waits

__all__ = ["_access", "_no_configuration_of_this_machine", "_proxy", "_registry", "_waits"]
