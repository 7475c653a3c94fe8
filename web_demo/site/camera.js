// The camera's frames, one after the other has been looked at.

/**
 * @param {HTMLVideoElement} video
 * @param {(frame: ImageBitmap) => Promise<void>} look
 * @param {(error: Error) => void} failed the camera went, or `look` failed
 * @returns {Promise<{stop: () => void}>}
 */
export async function startCamera(video, look, failed) {
  if (!navigator.mediaDevices) throw new Error('The browser offers no camera here: it needs https, or the address 127.0.0.1.');
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } }).catch((error) => {
    throw new Error(error.name === 'NotAllowedError' ? 'The browser was not allowed to use the camera.' : `There is no camera to use (${error.message}).`);
  });
  video.srcObject = stream;
  await video.play();
  let running = true;
  const loop = async () => {
    while (running) {
      if (!document.hidden) await look(await createImageBitmap(video));
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  };
  loop().catch((error) => running && failed(error));
  return {
    stop() {
      running = false;
      stream.getTracks().forEach((track) => track.stop());
      video.srcObject = null;
    },
  };
}
