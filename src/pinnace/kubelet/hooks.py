"""Lifecycle hooks: what a container asked to be done right after its start and before its end."""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.kubelet import http_get
from pinnace.kubelet.probes import headers_of, url_of
from pinnace.runtime.cri import Runtime, RuntimeFault

AGENT = "kube-lifecycle/1.36"
LONGEST = 3600.0      # seconds an HTTP hook without a grace period may take


class HookFault(Exception):
    """The hook did not succeed; the message is fit for an event."""


class Hooks:
    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock

    async def run(
        self, handler: core.LifecycleHandler, container: core.Container, id: str, pod_ip: str,
        *, timeout: float = LONGEST,
    ) -> None:  # fmt: skip
        """Returns when the hook is done. Raises HookFault, also when `timeout` seconds have passed."""
        try:
            if handler.exec is not None:
                command = tuple(handler.exec.command or ())
                result = await self._runtime.exec_sync(id, command, timeout=timeout)
                if result.exit_code != 0:
                    output = (result.stdout + result.stderr).decode("utf-8", "replace")
                    raise HookFault(
                        f"command '{' '.join(command)}' exited with {result.exit_code}: {output}"
                    )
            elif handler.sleep is not None:
                await self._clock.sleep(min(timeout, float(handler.sleep.seconds)))
            elif handler.httpGet is not None:
                url = url_of(handler.httpGet, container, pod_ip)
                answer = await http_get.get(url, headers_of(handler.httpGet), timeout=timeout, agent=AGENT)
                if answer.status >= 400:
                    raise HookFault(f"HTTP lifecycle hook failed with statuscode: {answer.status}")
            else:
                raise HookFault("invalid handler: one of exec, httpGet and sleep is needed")
        except TimeoutError as error:
            raise HookFault(f"the hook did not end within {timeout:.0f}s") from error
        except (RuntimeFault, http_get.HttpFault, ValueError) as error:
            raise HookFault(str(error)) from error
