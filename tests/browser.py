"""Pages in a real browser that has no network: Chromium without a window."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1280,900",
)
_CAMERA_FLAGS = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


class Browser:
    """A window of Chromium.

    Args:
        driver: Of selenium.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, address: Path | str) -> None:
        """Load a file, or an address on this machine; messages of the page before are gone."""
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        self.driver.get(address.absolute().as_uri() if isinstance(address, Path) else address)

    def messages(self) -> list[str]:
        """Warnings and errors since the page was opened, of its console and of what it could not load."""
        found = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in found if entry["level"] in ("WARNING", "SEVERE")]

    def look(self, *, width_px: int = 1280, height_px: int = 900, scheme: Literal["light", "dark"] = "light") -> None:
        """Show the page on a screen of this size, to somebody who prefers light or dark."""
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 600}
        self._tell("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._tell("Emulation.setEmulatedMedia", {"media": "", "features": [feature]})

    def look_at_print(self, *, scheme: Literal["light", "dark"] = "light") -> None:
        """Show the page as it is printed, for somebody who prefers light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._tell("Emulation.setEmulatedMedia", {"media": "print", "features": [feature]})

    def pdf(self) -> bytes:
        """The page as it is printed, as a file."""
        return base64.b64decode(self.driver.print_page())

    def screenshot(self, path: Path) -> None:
        """All of the page, as high as it is, as a PNG."""
        found = self._tell("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(found["data"]))

    def script(self, code: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(code, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        """Elements that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first element that a CSS selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Texts of the elements that are shown."""
        every = "[...document.querySelectorAll(arguments[0])]"
        code = f"return {every}.filter(e => e.checkVisibility()).map(e => e.textContent)"
        found: list[str] = self.script(code, selector)
        return found

    def hover(self, element: WebElement) -> None:
        """Put the pointer on the middle of an element."""
        self._show(element)
        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def click(self, element: WebElement) -> None:
        """Click on the middle of an element."""
        self._show(element)
        element.click()

    def _show(self, element: WebElement) -> None:
        """At once, as the driver does not wait where a page scrolls smoothly; and until it has been drawn there."""
        self.driver.execute_async_script(
            """arguments[0].scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
            requestAnimationFrame(() => requestAnimationFrame(arguments[1]))""",
            element,
        )

    def _tell(self, command: str, values: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(command, values)


@contextmanager
def chromium(profile: Path, *, camera: Path | None = None, flags: Sequence[str] = ()) -> Iterator[Browser]:
    """Chromium with its driver; the test is skipped where they are not installed.

    Args:
        profile: A new folder for all that the browser keeps.
        camera: A file (y4m) that is played, over and over, as the camera of pages, which is theirs without asking.
        flags: Further ones.
    """
    program, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver_program is None:
        message = "pages are not opened in a browser: chromium and chromedriver (chromium-driver) are not installed"
        if os.environ.get("KINEMA_REQUIRE_TEST_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    options = ChromeOptions()
    options.binary_location = program
    more = [] if camera is None else [*_CAMERA_FLAGS, f"--use-file-for-fake-video-capture={camera}"]
    for flag in (*_FLAGS, *more, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ["SE_OFFLINE"] = "true"  # selenium looks for no driver elsewhere
    os.environ["SE_AVOID_STATS"] = "true"
    driver = Chrome(options=options, service=Service(driver_program))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
